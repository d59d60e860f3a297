"""Every number that decides what comes out: sizes, shares, steps, rates, seeds. Values only.

A stage is made again when its part of the recipe changes, so that a product always belongs to what is written here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Phase:
    """So many steps over batches of ``batch`` windows, each of ``frames`` hundredths of a second; ``prompted``: the share
    of batches with a text before, which a decoder that does not yet know where to look has no use for."""

    frames: int
    batch: int
    steps: int
    prompted: float = 0.45


@dataclass(frozen=True, slots=True)
class RecognizerRecipe:
    """The recognizer's. Shares are of windows or batches, from 0 to 1.

    - phases: windows grow. A decoder that starts on long ones never learns where to look.
    - final_rate: what is left of the learning rate at the end; it falls in a straight line.
    - timestamped_share: windows whose text has timestamp tokens.
    - timestamp_jitter: standard deviation, in bins of 20 ms, of the timestamps that the decoder is given while it is to
      predict the true ones. Decoding, it is given its own, which are off a little: trained on exact ones only it goes
      astray after them and drops words.
    - joined_gap_seconds: phrases nearer to each other are one segment. Told apart by less than that, no sound says
      whether a timestamp comes next.
    - cut_share: of windows that cut their last phrase, those whose text ends before it, as Whisper's do.
    - pause_share: of a last word's attention, what is to lie on the pause behind it. So the pause belongs to the word
      before it, and the word after it is not timed into the pause.
    - narrow_share: windows without sound above some 4 kHz and with little below 300 Hz, as over a telephone.
    - twin_share: phrases that have the words of the one before in another voice.
    - repeated_share: phrases that are said again at once, by the same voice or another. Without them a decoder that hears
      the same words twice is not sure how often.
    - averaged_share: weights are averaged over this last part of the steps.
    """

    seed: int = 1
    phrases: int = 20_000
    phases: tuple[Phase, ...] = (
        Phase(300, 20, 2_000, prompted=0.1),
        Phase(500, 20, 1_200, prompted=0.2),
        Phase(1000, 12, 1_800),
        Phase(2000, 6, 1_400),
        Phase(3000, 4, 2_000),
    )
    learning_rate: float = 2e-3
    final_rate: float = 0.03
    warm_up: int = 150
    timestamped_share: float = 0.5
    timestamp_jitter: float = 2.0
    joined_gap_seconds: float = 0.35
    cut_share: float = 0.15
    pause_share: float = 0.1
    narrow_share: float = 0.25
    twin_share: float = 0.2
    repeated_share: float = 0.12
    averaged_share: float = 0.1

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.phases)


@dataclass(frozen=True, slots=True)
class PolishingRecipe:
    """The recognizer's last steps: they begin with its averaged weights, at a low rate that falls to nothing, and are averaged
    in their turn."""

    seed: int = 5
    phase: Phase = Phase(3000, 4, 700)
    learning_rate: float = 3e-4
    averaged_share: float = 0.5

    def of(self, trained: RecognizerRecipe) -> RecognizerRecipe:
        """As a training of its own."""
        return replace(
            trained,
            seed=self.seed,
            phases=(self.phase,),
            learning_rate=self.learning_rate,
            final_rate=0.0,
            averaged_share=self.averaged_share,
        )


@dataclass(frozen=True, slots=True)
class VoicesRecipe:
    """Synthetic people. One in ``1 / held_share`` is kept out of training, for choosing the pipeline's parameters.

    - sibling_share: those who have everything but pitch and speed of somebody else's voice.
    """

    seed: int = 1
    identities: int = 1_200
    seconds_each: float = 24.0
    held_share: float = 1 / 8
    sibling_share: float = 0.3
    room_share: float = 0.35


@dataclass(frozen=True, slots=True)
class EmbeddingRecipe:
    """The speaker embedding's; ``margin`` is that of the additive angular softmax, in radians."""

    seed: int = 2
    steps: int = 2_000
    batch: int = 96
    learning_rate: float = 2.5e-3
    margin: float = 0.25
    scale: float = 30.0
    narrow_share: float = 0.25


@dataclass(frozen=True, slots=True)
class SegmentationRecipe:
    """The segmentation's.

    - speakers: most that a chunk of 10 s can hold; speakers_shares: how often a training chunk has 0, 1, 2 ... of them.
    - overlapped_share: chunks in which speech overlaps on purpose; most_overlapped: the most of their time.
    - similar_share: conversations among voices that the embedding finds alike; neighbors: among so many nearest, or fewer.
    - frozen_share: first part of the steps in which the network shared with the embedding stays as it is.
    - counting, telling, assigning: weights of the three losses (how many speak, are two frames of one speaker, who).
    """

    seed: int = 3
    steps: int = 4_000
    batch: int = 16
    learning_rate: float = 1.5e-3
    warm_up: int = 50
    speakers: int = 4
    speakers_shares: tuple[float, ...] = (0.03, 0.15, 0.42, 0.25, 0.15)
    overlapped_share: float = 0.65
    most_overlapped: float = 0.5
    similar_share: float = 0.3
    neighbors: int = 40
    narrow_share: float = 0.2
    frozen_share: float = 0.3
    counting: float = 1.0
    telling: float = 1.0
    assigning: float = 1.0


@dataclass(frozen=True, slots=True)
class PipelineRecipe:
    """What is estimated after training, and what is tried: for deciding in a chunk (how alike frames of one speaker are,
    what speaks for two at once besides the networks), and for clustering the chunks' speakers.

    - seconds: of conversations, in turn; in short ones there is little by which to tell voices apart.
    - tolerance: parameters that are so much worse than the best are as good, as far as so many conversations can tell.
    """

    seed: int = 4
    repeats: int = 6
    dimensions: int = 64
    conversations: int = 54
    seconds: tuple[float, ...] = (45.0, 90.0)
    tolerance: float = 0.003
    frame_thresholds: tuple[float, ...] = (0.5, 0.6, 0.7)
    pair_biases: tuple[float, ...] = (-0.5,)
    thresholds: tuple[float, ...] = (0.35, 0.45, 0.55, 0.65)
    acoustic_scales: tuple[float, ...] = (0.05, 0.07, 0.1, 0.14)
    regularizations: tuple[float, ...] = (0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class EvaluationRecipe:
    """How much is measured, on voices and sentences that no training heard."""

    seed: int = 99
    phrases: int = 150
    recordings: int = 3
    recording_seconds: float = 180.0
    conversations: int = 10
    conversation_seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class Recipe:
    recognizer: RecognizerRecipe = RecognizerRecipe()
    polishing: PolishingRecipe = PolishingRecipe()
    voices: VoicesRecipe = VoicesRecipe()
    embedding: EmbeddingRecipe = EmbeddingRecipe()
    segmentation: SegmentationRecipe = SegmentationRecipe()
    pipeline: PipelineRecipe = PipelineRecipe()
    evaluation: EvaluationRecipe = EvaluationRecipe()


FULL = Recipe()

QUICK = Recipe(
    replace(
        FULL.recognizer,
        phrases=150,
        phases=(Phase(300, 4, 6), Phase(500, 4, 4)),
        warm_up=2,
    ),
    replace(FULL.polishing, phase=Phase(500, 4, 3)),
    replace(FULL.voices, identities=40, seconds_each=5.0),
    replace(FULL.embedding, steps=6, batch=16),
    replace(FULL.segmentation, steps=6, batch=4, warm_up=2, neighbors=5),
    replace(
        FULL.pipeline,
        repeats=2,
        dimensions=16,
        conversations=2,
        seconds=(20.0,),
        frame_thresholds=(0.5,),
        pair_biases=(-1.0, 0.0),
        thresholds=(0.8,),
        acoustic_scales=(0.3,),
        regularizations=(0.8,),
    ),
    replace(
        FULL.evaluation, phrases=4, recordings=1, recording_seconds=20.0, conversations=1, conversation_seconds=20.0
    ),
)
"""Everything to the end in a minute or two. What it makes knows nothing."""
