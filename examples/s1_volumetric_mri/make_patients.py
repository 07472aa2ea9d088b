"""Write volumetric MRI of simulated patients: two contrasts a patient, as NIfTI, with a clinical table and reports.

::

    python make_patients.py OUT [--patients 24] [--seed 0]

    OUT/mri/grade{label}/{patient_id}/T1.nii.gz, T2.nii.gz     int16, 80 × 80 × 24 voxels of 2.8 × 2.8 × 5.5 mm
    OUT/clinical.csv     patient_id, age, weight, sex, scanner (in no order)
    OUT/reports.csv      patient_id, report (in another)
    OUT/README.txt       what is real here, and what is simulated

**Real**: the anatomy. It is the MNI152 average brain with its grey- and white-matter maps, as they come inside the
package nilearn (ICBM 152 nonlinear symmetric, version 2009a).

**Simulated**: everything else. A patient is that one brain, turned, stretched and bent smoothly, with an uneven coil,
noise and a scanner's gain. ``T2`` isn't measured: it is computed from the tissue maps, fluid bright and white matter
dark. The lesion is an ellipsoid with a soft edge; in grade 1 it is larger. Ages, weights and reports are drawn at
random around the grade. Nothing here says anything about a disease.

The volumes of scanner ``north`` are stored in RAS order, those of ``south`` in LPS, as most scanners write: the same
brain lies mirrored in the file, and the header says so.

The same arguments give the same voxels (with the same NumPy and SciPy).
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parents[1]))  # for what the examples share

from shared import write_csv

MODALITIES = ("T1", "T2")
SHAPE = (80, 80, 24)
SPACING = np.array([2.8, 2.8, 5.5])  # mm
CENTRE = np.array([0.0, -18.0, 8.0])  # mm, in MNI space: the middle of the brain
MAP = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
# Mean radius of the lesion by grade, and its spread, in mm.
RADIUS = {0: 7.0, 1: 13.0}
SPREAD = 2.0

Volume = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Patient:
    patient_id: str
    grade: int
    age: int
    weight: float  # kg
    sex: str
    scanner: str
    radius: float  # of the lesion, mm


def make_patients(out: Path, *, patients: int = 24, seed: int = 0) -> list[Patient]:
    """Write the patients below ``out``, which must be empty or not exist.

    Raises:
        ValueError: for fewer than 4 patients.
        FileExistsError: when ``out`` holds anything.
    """
    if patients < 4:
        raise ValueError(f"need at least 4 patients, not {patients}")
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty")
    brain = load_brain()
    rng = np.random.default_rng(seed)
    people = invent(patients, rng)
    for patient in people:
        own = np.random.default_rng([seed, int(patient.patient_id)])
        folder = out / "mri" / f"grade{patient.grade}" / patient.patient_id
        folder.mkdir(parents=True)
        for modality, values in scan(brain, patient, own).items():
            save(values, patient.scanner, folder / f"{modality}.nii.gz")
    clinical = [(p.patient_id, p.age, p.weight, p.sex, p.scanner) for p in people]
    write_csv(out / "clinical.csv", ("patient_id", "age", "weight", "sex", "scanner"), shuffled(clinical, rng))
    reports = [(p.patient_id, report(p, rng)) for p in people]
    write_csv(out / "reports.csv", ("patient_id", "report"), shuffled(reports, rng))
    (out / "README.txt").write_text(README.format(count=patients, seed=seed), encoding="utf-8")
    return people


README = """{count} patients for trying featstore, made by examples/s1_volumetric_mri/make_patients.py (seed {seed}).

REAL       the anatomy: the MNI152 average brain and its tissue maps, from the package nilearn.
SIMULATED  the patients: their shapes, the second contrast, lesions, noise, and both CSV files.
           Nothing here says anything about a disease.
"""


def load_brain() -> Volume:
    """The average brain: (4, X, Y, Z) of T1 intensity, grey matter, white matter and fluid, each 0…1."""
    import nibabel

    found = importlib.util.find_spec("nilearn")  # not imported: its files are all that is needed
    if found is None or found.origin is None:
        raise SystemExit("The average brain comes with nilearn: pip install nilearn")
    folder = Path(found.origin).parent / "datasets" / "data"
    t1, grey, white = (
        np.asarray(nibabel.load(folder / MAP.format(name)).dataobj, np.float32) / 255 for name in ("t1", "gm", "wm")
    )
    fluid = np.where(t1 > 0, np.clip(1 - grey - white, 0, 1), 0)
    return np.stack([t1, grey, white, fluid])


def invent(count: int, rng: np.random.Generator) -> list[Patient]:
    """Patients "001", "002", …, as many of one grade as of the other, of two scanners."""
    grades = rng.permutation(np.arange(count) % 2)
    scanners = rng.permutation(np.arange(count) % 2)
    return [
        Patient(
            patient_id=f"{number:03d}",
            grade=int(grade),
            age=round(float(np.clip(rng.normal(52 + 8 * grade, 9), 25, 85))),
            weight=round(float(np.clip(rng.normal(74, 11), 45, 120)), 1),
            sex="FM"[int(rng.integers(2))],
            scanner=("north", "south")[int(scanner)],
            radius=float(np.clip(rng.normal(RADIUS[int(grade)], SPREAD), 3, 20)),
        )
        for number, (grade, scanner) in enumerate(zip(grades, scanners, strict=True), start=1)
    ]


def scan(brain: Volume, patient: Patient, rng: np.random.Generator) -> dict[str, npt.NDArray[np.int16]]:
    """Both contrasts of a patient, (80, 80, 24) each, left to right, back to front, bottom to top."""
    from scipy.ndimage import map_coordinates

    axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(SHAPE, SPACING, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))  # mm from the middle of the volume
    bent = np.einsum("ij,jxyz->ixyz", shape_change(rng), grid) + 3 * np.stack([waves(rng) for _ in range(3)])
    places = bent + (CENTRE + np.array([98.0, 134.0, 72.0]))[:, None, None, None]  # the map's first voxel in MNI space
    t1, grey, white, fluid = (map_coordinates(tissue, places, order=1) for tissue in brain)

    inside = lesion(grid, white, patient.radius, rng)
    contrasts = {
        "T1": t1 * (1 - 0.6 * inside),
        "T2": (0.55 * grey + 0.3 * white + 0.95 * fluid) * (1 - inside) + 0.85 * inside,
    }
    return {modality: measured(contrast, rng) for modality, contrast in contrasts.items()}


def shape_change(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A small turn about the vertical axis, and a stretch of each axis: (3, 3)."""
    angle = rng.normal(0, np.deg2rad(4))
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return turn @ np.diag(rng.normal(1, 0.04, 3))


def waves(rng: np.random.Generator) -> Volume:
    """A smooth random field over the volume, about -1…1: four waves, each longer than half of the volume."""
    places = np.stack(np.meshgrid(*(np.linspace(0, 1, n) for n in SHAPE), indexing="ij"))
    field = sum(
        np.cos(2 * np.pi * (np.tensordot(rng.uniform(-1.5, 1.5, 3), places, 1) + rng.random())) for _ in range(4)
    )
    return np.asarray(field) / 2


def lesion(grid: Volume, white: Volume, radius: float, rng: np.random.Generator) -> Volume:
    """How much of each voxel is lesion, 0…1: an ellipsoid somewhere in the white matter, its edge 2 mm soft."""
    # Among the middle slices, so that any choice of slices meets it.
    likely = np.argwhere((white > 0.8) & (np.abs(grid[2]) < 20))
    middle = grid[:, *likely[rng.integers(len(likely))]]
    stretch = rng.uniform(0.85, 1.15, 3)
    distance = np.sqrt((((grid - middle[:, None, None, None]) / stretch[:, None, None, None]) ** 2).sum(axis=0))
    return 1 / (1 + np.exp((distance - radius) / 2))


def measured(contrast: Volume, rng: np.random.Generator) -> npt.NDArray[np.int16]:
    """What a scanner makes of it: an uneven coil, Rician noise, and a gain that says nothing."""
    signal = contrast * np.exp(0.15 * waves(rng))
    noise = rng.normal(0, 0.03, (2, *SHAPE))
    return np.rint(np.hypot(signal + noise[0], noise[1]) * rng.uniform(400, 1600)).astype(np.int16)


def save(values: npt.NDArray[np.int16], scanner: str, path: Path) -> None:
    """Write a volume as its scanner stores it: RAS or LPS, with the affine that says where each voxel is."""
    import nibabel

    first = CENTRE - (np.array(SHAPE) - 1) / 2 * SPACING
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = first
    if scanner == "south":
        values = values[::-1, ::-1]
        last = first + (np.array(SHAPE) - 1) * SPACING
        affine = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
        affine[:3, 3] = last[0], last[1], first[2]
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(values), affine), path)


def report(patient: Patient, rng: np.random.Generator) -> str:
    """A few sentences that a radiologist could have written, with the size as far as one measures it."""
    diameter = max(4, round(2 * patient.radius + rng.normal(0, 3)))
    words = "small" if diameter < 16 else "medium-sized" if diameter < 24 else "large"
    edge = rng.choice(["well defined", "ill defined"])
    around = rng.choice(["No midline shift.", "Ventricles of normal width.", "No oedema around it."])
    return f"A {words} {edge} lesion of {diameter} mm in the white matter, dark in T1 and bright in T2. {around}"


def shuffled(rows: Sequence[tuple[object, ...]], rng: np.random.Generator) -> list[tuple[object, ...]]:
    return [rows[int(place)] for place in rng.permutation(len(rows))]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write MRI volumes of simulated patients.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make; must be empty or not exist")
    parser.add_argument("--patients", type=int, default=24, help="how many (default: 24)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    args = parser.parse_args(argv)
    try:
        people = make_patients(args.out, patients=args.patients, seed=args.seed)
    except (ValueError, FileExistsError) as error:
        parser.error(str(error))
    print(f"{args.out}: {len(people)} patients, {len(people) * len(MODALITIES)} volumes of {SHAPE} voxels.")
    print("Real: the anatomy (MNI152, of nilearn). Simulated: patients, T2, lesions, tables, reports.")


if __name__ == "__main__":
    main()
