"""The controller: the only owner of jobs, from upload to transcript."""
