"""Who speaks when: voices, conversations, an embedding, a segmentation, their PLDA, the pipeline's folder."""
