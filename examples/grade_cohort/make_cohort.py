"""Write a two-site, two-modality cohort of PNG slices, in the shape in which hospitals hand such data over.

::

    python make_cohort.py OUT [--patients 80] [--slices 5] [--seed 0]

    OUT/Grade/JM/fold{k}/grade{label}/{patient_id}/{modality}/{patient_id}_{m}_slice_{n}.png   home site
    OUT/Grade/SZ/grade{label}/{patient_id}/{modality}/{patient_id}_{m}_slice_{n}.png           external site
    OUT/clinical.csv     patient_id, age, sex, bmi
    OUT/windows.csv      for every slice, the window of the source image that it was cut from
    OUT/README.txt       what is real here, and what is simulated

**Real**: the tissue. Every slice is a window of one of two images that come with scikit-image, enlarged to
224×224 8-bit grey: modality A is cut from ``skimage.data.immunohistochemistry`` (colonic glands, DAB and
hematoxylin), modality P from ``skimage.data.retina`` (a fundus photograph, its green channel).

**Simulated**: the patients, their grades, the two sites with their folds, the contrast, brightness, blur and noise
that differ by patient and by site, and every number in ``clinical.csv``. Nothing here says anything about a disease.

**How a grade shows in the pixels.** Both source images are cut into square territories, and every patient owns
one in each: no source pixel belongs to two patients, so none can leak from train to test. A territory has a
score, the share of gland in A and the amount of vessel in P. A patient of grade 1 tends to own a territory with a
higher score, with so much chance in it that either modality alone tells the grade in part; the chance in A and the
chance in P are independent, so that both together tell more. The slices of a patient are overlapping windows of its
territory, as neighbouring slices of a volume are. No two slices show the same window.

The same arguments give the same bytes (with the same NumPy and Pillow).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

sys.path.insert(0, str(Path(__file__).parents[1]))  # for what the examples share

from shared import write_csv

HOME, EXTERNAL = "JM", "SZ"
MODALITIES = ("A", "P")
SIZE = 224
FOLDS = 5
SOURCES = {"A": "skimage.data.immunohistochemistry", "P": "skimage.data.retina"}

EXTERNAL_SHARE = 0.3
RETINA_RADIUS = 660  # pixels; the fundus itself ends at about 690
# Grades differ by so many standard deviations in each modality: knowing the scores, AUC 0.92 alone, 0.98 together. A
# probe that learns from a few dozen patients reaches about 0.75 to 0.88 alone.
EFFECT = 2.0
WINDOW_SHARE = 0.78  # side of a slice's window / side of the patient's territory
SMALLEST_WINDOW = 16  # below that, enlarging to 224 leaves nothing to see

Grey = npt.NDArray[np.float32]  # (height, width), 0..1


@dataclass(frozen=True, slots=True)
class Territory:
    """A square of a source image that belongs to one patient; its side is that of the modality's grid."""

    top: int
    left: int
    score: float


@dataclass(frozen=True, slots=True)
class Patient:
    patient_id: str
    site: str
    grade: int
    fold: int | None  # home site only
    age: int
    sex: str
    bmi: float
    modalities: tuple[str, ...]
    in_clinical: bool


@dataclass(frozen=True, slots=True)
class Cohort:
    """What was written."""

    root: Path  # OUT/Grade
    clinical: Path
    windows: Path
    patients: tuple[Patient, ...]
    slices: int

    def describe(self) -> str:
        """The cohort in one sentence."""
        home = sum(p.site == HOME for p in self.patients)
        lacking = sum("P" not in p.modalities for p in self.patients)
        unlisted = sum(not p.in_clinical for p in self.patients)
        return (
            f"{len(self.patients)} patients ({home} at {HOME}, {len(self.patients) - home} at {EXTERNAL}), "
            f"{self.slices:,} slices; {lacking} patients lack modality P, {unlisted} are not in clinical.csv"
        )


def make_cohort(out: Path, *, patients: int = 80, slices: int = 5, seed: int = 0) -> Cohort:
    """Write the cohort below ``out``, which must be empty or not exist.

    Args:
        out: folder to make.
        patients: how many, both sites together; at least 6.
        slices: mean slices per patient and modality; each has up to two fewer or more, and at least one.
        seed: of everything that is random.

    Raises:
        ValueError: for fewer than 6 patients or 1 slice, or more patients than the source images have room for.
        FileExistsError: when ``out`` holds anything.
    """
    if patients < 6 or slices < 1:
        raise ValueError(f"need at least 6 patients and 1 slice, not {patients} and {slices}")
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty")
    sources = {modality: load_source(modality) for modality in MODALITIES}
    grids = {modality: cut_territories(modality, sources[modality], patients) for modality in MODALITIES}

    rng = np.random.default_rng(seed)
    people = invent_patients(patients, rng)
    rows: list[tuple[str, str, int, int, int]] = []
    for modality in MODALITIES:
        side, territories = grids[modality]
        owned = share_out(territories, people, rng)
        for patient, territory in zip(people, owned, strict=True):
            # Drawn whether or not it is used, so that one patient's gap changes no other patient's pixels.
            patient_rng = np.random.default_rng(rng.integers(2**63))
            if modality not in patient.modalities:
                continue
            folder = out / "Grade" / patient_folder(patient) / modality
            folder.mkdir(parents=True)
            fewer = min(2, slices - 1)
            count = int(patient_rng.integers(slices - fewer, slices + fewer + 1))
            device = Device.of(patient.site, patient_rng)
            windows = slice_windows(territory, side, count, patient_rng)
            for number, (top, left, size) in enumerate(windows, start=1):
                path = folder / f"{patient.patient_id}_{modality}_slice_{number}.png"
                pixels = device.capture(sources[modality][top : top + size, left : left + size], patient_rng)
                Image.fromarray(pixels).save(path)
                rows.append((path.relative_to(out).as_posix(), SOURCES[modality], top, left, size))

    cohort = Cohort(out / "Grade", out / "clinical.csv", out / "windows.csv", tuple(people), len(rows))
    write_csv(
        cohort.clinical,
        ("patient_id", "age", "sex", "bmi"),
        [(p.patient_id, p.age, p.sex, p.bmi) for p in people if p.in_clinical],
    )
    write_csv(cohort.windows, ("path", "source", "top", "left", "size"), rows)
    (out / "README.txt").write_text(README.format(described=cohort.describe(), seed=seed), encoding="utf-8")
    return cohort


README = """A cohort for trying featstore, made by examples/grade_cohort/make_cohort.py (seed {seed}).

{described}.

REAL       the tissue: each slice is a window of an image that comes with scikit-image
           (A: immunohistochemistry, colonic glands; P: retina, a fundus photograph). windows.csv says which.
SIMULATED  the patients, grades, sites, folds, imaging differences, and everything in clinical.csv.
           Nothing here says anything about a disease.
"""


def load_source(modality: str) -> Grey:
    """The grey source image of a modality, 0..1. Both come inside the scikit-image package: no download."""
    from skimage import data

    if modality == "A":
        image = Image.fromarray(data.immunohistochemistry()).convert("L")
        return np.asarray(image, dtype=np.float32) / np.float32(255)
    green = np.asarray(data.retina()[..., 1], dtype=np.float32)  # where vessels show best, and dark: 25 to 120
    return np.clip((green - np.float32(15)) / np.float32(120), np.float32(0), np.float32(1))


def score_map(modality: str, image: Grey) -> tuple[Grey, npt.NDArray[np.bool_]]:
    """How much gland (A) or vessel (P) there is at each pixel, and which pixels show tissue."""
    if modality == "A":
        return np.float32(1) - image, np.ones(image.shape, dtype=bool)
    smooth = Image.fromarray((image * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(2))
    around = smooth.filter(ImageFilter.GaussianBlur(14))
    # Vessels are darker than what is around them. The rim of the fundus is left out: it is, too.
    darker = np.asarray(around, dtype=np.float32) - np.asarray(smooth, dtype=np.float32)
    middle = (np.array(image.shape) - 1) / 2
    rows, columns = np.ogrid[: image.shape[0], : image.shape[1]]
    inside = np.hypot(rows - middle[0], columns - middle[1]) < RETINA_RADIUS
    return np.maximum(darker, np.float32(0)) / np.float32(255), inside


def cut_territories(modality: str, image: Grey, wanted: int) -> tuple[int, list[Territory]]:
    """The largest square grid with ``wanted`` cells full of tissue: its side, and the cells."""
    scores, tissue = score_map(modality, image)
    height, width = image.shape
    smallest = math.ceil(SMALLEST_WINDOW / WINDOW_SHARE)
    for side in range(math.isqrt(height * width // wanted), smallest - 1, -1):
        cells = [
            Territory(top, left, float(scores[top : top + side, left : left + side].mean()))
            for top in range(0, height - side + 1, side)
            for left in range(0, width - side + 1, side)
            if tissue[top : top + side, left : left + side].all()
        ]
        if len(cells) >= wanted:
            return side, cells
    raise ValueError(f"{SOURCES[modality]} has no room for {wanted} patients who share no pixel; ask for fewer")


def invent_patients(count: int, rng: np.random.Generator) -> list[Patient]:
    """Patients with ids unique over both sites ("001", "002", …), in the order of their ids."""
    width = max(3, len(str(count)))
    externals = max(2, round(count * EXTERNAL_SHARE))
    sites = [HOME] * (count - externals) + [EXTERNAL] * externals
    rng.shuffle(sites)
    # Both sites have both grades, in nearly the same proportion.
    grades = [0] * count
    for site, share in ((HOME, 0.5), (EXTERNAL, 0.45)):
        members = [i for i, s in enumerate(sites) if s == site]
        for i in rng.permutation(members)[: max(1, round(len(members) * share))]:
            grades[int(i)] = 1
    order = rng.permutation(count)
    lacking_p = {int(i) for i in order[: max(1, round(count * 0.06))]}
    unlisted = {int(i) for i in order[-max(1, round(count * 0.03)) :]}
    people = []
    for i, (site, grade) in enumerate(zip(sites, grades, strict=True)):
        age = float(np.clip(rng.normal(58 + 4 * grade, 10), 21, 89))
        bmi = float(np.clip(rng.normal(24.5, 3.2), 16, 40))
        people.append(
            Patient(
                patient_id=f"{i + 1:0{width}d}",
                site=site,
                grade=grade,
                fold=int(rng.integers(1, FOLDS + 1)) if site == HOME else None,
                age=round(age),
                sex="F" if rng.random() < 0.45 else "M",
                bmi=round(bmi, 1),
                modalities=("A",) if i in lacking_p else MODALITIES,
                in_clinical=i not in unlisted,
            )
        )
    return people


def share_out(territories: Sequence[Territory], people: Sequence[Patient], rng: np.random.Generator) -> list[Territory]:
    """A territory for each patient: the higher its grade plus chance, the higher the territory's score.

    The chance is normal, and spread evenly over the patients of one site and grade (its quantiles, shuffled): a
    cohort of a few dozen patients then has the signal that EFFECT says, at both sites.
    """
    chosen = rng.permutation(len(territories))[: len(people)]
    by_score = sorted((territories[int(i)] for i in chosen), key=lambda t: (t.score, t.top, t.left))
    leaning = np.array([EFFECT * p.grade for p in people])
    for site, grade in product((HOME, EXTERNAL), (0, 1)):
        members = [i for i, p in enumerate(people) if (p.site, p.grade) == (site, grade)]
        quantiles = [NormalDist().inv_cdf((k + 0.5) / len(members)) for k in range(len(members))]
        leaning[members] += rng.permutation(quantiles)
    ranks = np.argsort(np.argsort(leaning, kind="stable"), kind="stable")
    return [by_score[int(rank)] for rank in ranks]


def slice_windows(territory: Territory, side: int, count: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """``count`` distinct windows (top, left, size) inside a territory."""
    size = round(side * WINDOW_SHARE)
    room = side - size + 1
    if count > room * room:
        raise ValueError(f"a territory of {side} px has no {count} distinct windows; ask for fewer slices")
    places = rng.choice(room * room, size=count, replace=False)
    return [(territory.top + int(p) // room, territory.left + int(p) % room, size) for p in places]


@dataclass(frozen=True, slots=True)
class Device:
    """How a patient was imaged: what differs between patients, and more between sites."""

    contrast: float
    brightness: float
    blur: float  # pixels, at 224
    noise: float
    turns: int
    mirrored: bool

    @classmethod
    def of(cls, site: str, rng: np.random.Generator) -> Device:
        external = site == EXTERNAL
        return cls(
            contrast=float(rng.normal(0.9 if external else 1.0, 0.08)),
            brightness=float(rng.normal(0.02 if external else 0.0, 0.03)),
            blur=float(rng.uniform(0.6, 1.6) if external else rng.uniform(0.0, 1.0)),
            noise=0.04 if external else 0.025,
            turns=int(rng.integers(4)),
            mirrored=bool(rng.integers(2)),
        )

    def capture(self, window: Grey, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        """The window as this device shows it: (224, 224) uint8."""
        image = Image.fromarray(np.rint(window * 255).astype(np.uint8))
        image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(self.blur))
        pixels = np.rot90(np.asarray(image, dtype=np.float32) / 255, self.turns)
        pixels = pixels[:, ::-1] if self.mirrored else pixels
        pixels = (pixels - 0.5) * self.contrast + 0.5 + self.brightness
        pixels = pixels + rng.normal(0, self.noise, pixels.shape)
        return np.clip(np.rint(pixels * 255), 0, 255).astype(np.uint8)


def patient_folder(patient: Patient) -> Path:
    """``JM/fold3/grade1/007`` or ``SZ/grade0/012``."""
    site = Path(patient.site)
    return (
        (site if patient.fold is None else site / f"fold{patient.fold}") / f"grade{patient.grade}" / patient.patient_id
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write a two-site cohort of real tissue and simulated patients.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make; must be empty or not exist")
    parser.add_argument("--patients", type=int, default=80, help="patients of both sites (default: 80)")
    parser.add_argument("--slices", type=int, default=5, help="mean slices per patient and modality (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    args = parser.parse_args(argv)
    try:
        cohort = make_cohort(args.out, patients=args.patients, slices=args.slices, seed=args.seed)
    except (ValueError, FileExistsError) as error:
        parser.error(str(error))
    print(f"{cohort.root}: {cohort.describe()}.")
    print("Real: the tissue (scikit-image). Simulated: patients, grades, sites, clinical columns.")


if __name__ == "__main__":
    main()
