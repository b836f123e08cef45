"""Frames that nobody can decide: images made by hand of the three first-order reflections of a lattice."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from training.decidable import (
    _MOSTLY,
    FIRST_ORDER_A,
    LEAST_COSINE,
    LEAST_IN_A_WINDOW,
    _at,
    _detail,
    _impulses,
    _invariant,
    _sign,
    crystal_sign,
    decidable,
    element_sign,
    gold_sign,
    graphene_hint,
    graphene_sign,
)
from training.structures.structure import Sites

SAMPLING_A = 0.25
SIZE = 168  # 42 A: windows at four places
REVERSALS = [(1, 1, -1), (-1, 1, 1), (1, -1, -1), (-1, -1, 1), (-3, 1, 1), (3, -1, -1)]


class Lattice:
    """Graphene turned by an angle and moved by an origin, both arbitrary."""

    def __init__(self, angle: float = 0.2, origin_A: tuple[float, float] = (0.3, 0.9)) -> None:
        turn = angle + np.arange(3) * 2 * np.pi / 3
        self.reflections = np.stack([np.sin(turn), np.cos(turn)], axis=1) / FIRST_ORDER_A
        cell = np.linalg.inv(self.reflections[:2]).T  # rows a with a . g whole
        i, j = np.mgrid[-60:60, -60:60].reshape(2, -1, 1)
        corners = i * cell[0] + j * cell[1] + origin_A
        # The two atoms lie at a third and two thirds of the cell's long diagonal.
        diagonal = cell[0] + cell[1] if np.dot(*cell) > 0 else cell[0] - cell[1]
        atoms = np.concatenate([corners + diagonal / 3, corners + diagonal * 2 / 3])
        self.atoms_A = atoms[np.all((atoms >= 0) & (atoms < SIZE * SAMPLING_A), axis=1)]

    def image(self, transfer: tuple[complex, ...]) -> NDArray[np.float32]:
        """What a microscope shows that passes each reflection with this factor."""
        at = np.stack(np.mgrid[:SIZE, :SIZE] + 0.5) * SAMPLING_A
        out = np.ones((SIZE, SIZE))
        for g, factor in zip(self.reflections, transfer, strict=True):
            strength = np.exp(-2j * np.pi * self.atoms_A @ g).mean()
            out += 0.1 * (factor * strength * np.exp(2j * np.pi * np.tensordot(g, at, 1))).real
        return out.astype(np.float32)

    def decided(self, image: NDArray[np.float32]) -> bool:
        return decidable(image, self.atoms_A, SAMPLING_A)


def of_one_sign(image: NDArray[np.float32], positions_A: NDArray[np.float64]) -> bool:
    """Most columns are bright, or most dark: what is not enough."""
    return abs(_sign(_at(_detail(image, SAMPLING_A), positions_A, SAMPLING_A))) > _MOSTLY


@pytest.fixture(scope="module")
def lattice() -> Lattice:
    return Lattice()


def test_the_atoms_made_by_hand_are_graphene(lattice: Lattice) -> None:
    density = len(lattice.atoms_A) / (SIZE * SAMPLING_A) ** 2
    assert density == pytest.approx(0.3818, rel=0.03)
    apart = np.hypot(*(lattice.atoms_A[:, None] - lattice.atoms_A[None]).transpose(2, 0, 1))
    assert apart[apart > 0].min() == pytest.approx(1.42, rel=0.01)


@pytest.mark.parametrize("sign", [1, -1], ids=["bright atoms", "dark atoms"])
@pytest.mark.parametrize("angle", [0.0, 0.2, 0.5, 1.3])
def test_one_sign_for_all_is_decidable(sign: int, angle: float) -> None:
    lattice = Lattice(angle)
    assert lattice.decided(lattice.image((sign, sign, sign)))


@pytest.mark.parametrize("transfer", REVERSALS)
def test_a_reversal_of_some_is_not(lattice: Lattice, transfer: tuple[int, ...]) -> None:
    assert not lattice.decided(lattice.image(transfer))


def test_one_corner_that_says_the_opposite_is_enough_not_to_be() -> None:
    # A grain in a corner of the field, whose reflections are reversed; in the mean of all windows the sign is clear.
    lattice, edge = Lattice(), 5 * SIZE // 12
    image = lattice.image((1, 1, 1))
    image[:edge, :edge] = lattice.image((1, 1, -1))[:edge, :edge]
    truth = _impulses(lattice.atoms_A, image.shape, SAMPLING_A)
    cosine, _, weight = _invariant(image - image.mean(), truth, SAMPLING_A)
    assert abs((cosine * weight).sum() / weight.sum()) > LEAST_COSINE
    assert not lattice.decided(image)


def test_nor_is_a_part_that_shows_the_lattice_of_the_other_sign(lattice: Lattice) -> None:
    # Two reflections reversed: a clear picture of bright atoms again, elsewhere.
    image, edge = lattice.image((1, 1, 1)), 7 * SIZE // 12
    image[:, edge:] = lattice.image((1, -1, -1))[:, edge:]
    truth = _impulses(lattice.atoms_A, image.shape, SAMPLING_A)
    cosine, _, weight = _invariant(image - image.mean(), truth, SAMPLING_A)
    assert (cosine * weight).sum() / weight.sum() > LEAST_COSINE
    assert cosine.min() > LEAST_IN_A_WINDOW
    assert not lattice.decided(image)


def test_a_reversal_shows_a_perfect_lattice_nonetheless(lattice: Lattice) -> None:
    # The very image of a lattice of the other contrast, half a period away along two of the reflections.
    away = np.linalg.solve(lattice.reflections[:2], [0.5, 0.5])
    other = Lattice(origin_A=(0.3 + away[0], 0.9 + away[1]))
    image = lattice.image((1, 1, -1))
    np.testing.assert_allclose(other.image((-1, -1, -1)), image, atol=5e-3)
    assert other.decided(image)


@pytest.mark.parametrize(("degrees", "answer"), [(30, True), (60, False), (84, False)])
def test_threefold_astigmatism_turns_the_sum_of_the_phases(lattice: Lattice, degrees: float, answer: bool) -> None:
    image = lattice.image((-np.exp(1j * np.radians(degrees / 3)),) * 3)
    assert lattice.decided(image) == answer


@pytest.mark.parametrize(("degrees", "taught"), [(30, True), (50, True), (60, False), (130, False), (180, False)])
def test_what_is_taught_may_be_less_clear_but_has_the_true_sign(lattice: Lattice, degrees: float, taught: bool) -> None:
    image = lattice.image((-np.exp(1j * np.radians(degrees / 3)),) * 3)
    sites = Sites.of_carbon(lattice.atoms_A)
    assert graphene_hint([image], [lattice.atoms_A], sites, SAMPLING_A) == taught
    assert graphene_sign([image], [lattice.atoms_A], sites, SAMPLING_A) == (degrees < 37)


def test_unequal_strengths_of_one_sign_are_decidable(lattice: Lattice) -> None:
    assert lattice.decided(lattice.image((1.0, 0.6, 0.3)))


def test_wherever_the_lattice_lies() -> None:
    for origin_A in [(0.0, 0.0), (0.7, 1.1), (1.9, 0.4)]:
        lattice = Lattice(origin_A=origin_A)
        assert lattice.decided(lattice.image((-1, -1, -1)))


def test_noise_is_not_decidable(lattice: Lattice) -> None:
    rng = np.random.default_rng(0)
    assert not any(lattice.decided(rng.normal(1, 0.1, (SIZE, SIZE)).astype(np.float32)) for _ in range(5))


def test_gain_and_offset_do_not_matter(lattice: Lattice) -> None:
    assert lattice.decided(lattice.image((1, 1, 1)) * 1000 + 77)


def spots(positions_A: NDArray[np.float64], brightness: NDArray[np.float64], sigma_A: float) -> NDArray[np.float32]:
    """An even image with a spot at each position."""
    y, x = (np.mgrid[:SIZE, :SIZE] + 0.5) * SAMPLING_A
    image = np.ones((SIZE, SIZE))
    for (row, column), one in zip(positions_A, brightness, strict=True):
        image += one * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigma_A**2))
    return image.astype(np.float32)


STEPS = {  # of gold's columns: two from each to its neighbours, A
    "100": ((0.0, 2.04), (2.04, 0.0)),
    "110": ((0.0, 2.88), (2.04, 1.44)),
    "111": ((0.0, 1.665), (1.442, 0.8325)),
    "211": ((0.0, 1.44), (2.35, 0.0)),
}


class TestGold:
    """Columns along zone axes, each a spot of some brightness."""

    def decided(self, zone: str, brightness: float, every_third: float | None = None) -> bool:
        counts = np.stack(np.mgrid[-20:21, -20:21], axis=-1).reshape(-1, 2)
        positions = counts @ np.array(STEPS[zone]) + SIZE * SAMPLING_A / 2
        inside = np.hypot(*(positions - SIZE * SAMPLING_A / 2).T) < 14
        positions = positions[inside]
        shades = np.full(len(positions), brightness)
        if every_third is not None:
            shades[::3] = every_third
        return gold_sign([spots(positions, shades, 0.35)], [positions], Sites.of_carbon(positions), SAMPLING_A)

    @pytest.mark.parametrize("zone", STEPS)
    def test_dark_columns_are_decidable(self, zone: str) -> None:
        assert self.decided(zone, -0.5) is True

    @pytest.mark.parametrize(("zone", "told"), [("100", False), ("211", False), ("110", False), ("111", True)])
    def test_bright_columns_are_where_the_lattice_is_not_its_own_negative(self, zone: str, told: bool) -> None:
        assert self.decided(zone, 1.0) is told

    @pytest.mark.parametrize("zone", ["110", "111", "211"])
    def test_columns_no_darker_than_half_way_to_a_neighbour_are_not(self, zone: str) -> None:
        counts = np.stack(np.mgrid[-40:41, -40:41], axis=-1).reshape(-1, 2)
        halves = counts @ np.array(STEPS[zone]) / 2 + SIZE * SAMPLING_A / 2
        columns = np.all(counts % 2 == 0, axis=1)
        between = ~columns if zone != "211" else (counts[:, 1] % 2 == 0) & ~columns
        inside = np.hypot(*(halves - SIZE * SAMPLING_A / 2).T) < 14
        positions = halves[columns & inside]
        shades = np.where(columns, -0.4, np.where(between, -0.6, 0.0))[inside]
        image = spots(halves[inside], shades, 0.35)
        assert of_one_sign(image, positions)
        assert gold_sign([image], [positions], Sites.of_carbon(positions), SAMPLING_A) is False

    def test_rows_a_little_darker_between_their_columns_are_not(self) -> None:
        positions, image = self.with_dark_rows(everywhere=True)
        assert gold_sign([image], [positions], Sites.of_carbon(positions), SAMPLING_A) is False

    def test_nor_is_a_particle_with_such_rows_in_a_part(self) -> None:
        positions, image = self.with_dark_rows(everywhere=False)
        assert gold_sign([image], [positions], Sites.of_carbon(positions), SAMPLING_A) is False

    def with_dark_rows(self, everywhere: bool) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Dark columns of [110]; in all rows, or in the lower part, what is between them is a little darker."""
        counts = np.stack(np.mgrid[-40:41, -40:41], axis=-1).reshape(-1, 2)
        halves = counts @ np.array(STEPS["110"]) / 2 + SIZE * SAMPLING_A / 2
        inside = np.hypot(*(halves - SIZE * SAMPLING_A / 2).T) < 14
        columns = np.all(counts % 2 == 0, axis=1)
        along = (counts[:, 1] % 2 == 0) & ~columns & (everywhere | (counts[:, 1] > -4))
        rows = (counts[:, 0] % 2 == 1) & ~columns
        shades = np.select([columns, along, rows], [-0.5, -0.55, 0.4], 0.0)[inside]
        return halves[columns & inside], spots(halves[inside], shades, 0.35)

    def test_of_a_square_lattice_it_may_be_as_dark_half_way(self) -> None:
        counts = np.stack(np.mgrid[-40:41, -40:41], axis=-1).reshape(-1, 2)
        halves = counts @ np.array(STEPS["100"]) / 2 + SIZE * SAMPLING_A / 2
        inside = np.hypot(*(halves - SIZE * SAMPLING_A / 2).T) < 14
        columns, holes = (counts % 2 == 0).all(axis=1), (counts % 2 == 1).all(axis=1)
        positions = halves[columns & inside]
        image = spots(halves[inside], np.where(holes, 0.5, -0.5)[inside], 0.35)
        assert gold_sign([image], [positions], Sites.of_carbon(positions), SAMPLING_A) is True

    def test_but_not_much_darker_along_one_axis(self) -> None:
        counts = np.stack(np.mgrid[-40:41, -40:41], axis=-1).reshape(-1, 2)
        halves = counts @ np.array(STEPS["100"]) / 2 + SIZE * SAMPLING_A / 2
        inside = np.hypot(*(halves - SIZE * SAMPLING_A / 2).T) < 14
        columns, along = (counts % 2 == 0).all(axis=1), (counts % 2 == [1, 0]).all(axis=1)
        image = spots(halves[inside], np.select([columns, along], [-0.4, -0.8], 0.6)[inside], 0.35)
        positions = halves[columns & inside]
        assert of_one_sign(image, positions)
        assert gold_sign([image], [positions], Sites.of_carbon(positions), SAMPLING_A) is False

    @pytest.mark.parametrize(("zone", "told"), [("111", False), ("110", True)])
    def test_a_row_of_reflections_of_the_other_sign_is_told_where_the_neighbours_differ(
        self, zone: str, told: bool
    ) -> None:
        """Columns dark, what is half way along two of three directions a little less dark, along the third bright."""
        counts = np.stack(np.mgrid[-40:41, -40:41], axis=-1).reshape(-1, 2)
        halves = counts @ np.array(STEPS[zone]) / 2 + SIZE * SAMPLING_A / 2
        inside = np.hypot(*(halves - SIZE * SAMPLING_A / 2).T) < 14
        columns, along = (counts % 2 == 0).all(axis=1), (counts % 2 == [1, 0]).all(axis=1)
        image = spots(halves[inside], np.select([columns, along], [-0.6, 1.0], -0.3)[inside], 0.35)
        positions = halves[columns & inside]
        assert of_one_sign(image, positions)
        assert gold_sign([image], [positions], Sites.of_carbon(positions), SAMPLING_A) is told

    def test_a_few_columns_make_no_lattice(self) -> None:
        positions = np.array([[20.0, 20.0], [20.0, 22.9], [22.0, 21.4]])
        image = spots(positions, np.full(3, -0.5), 0.35)
        assert of_one_sign(image, positions)
        assert gold_sign([image], [positions], Sites.of_carbon(positions), SAMPLING_A) is False

    @pytest.mark.parametrize("zone", STEPS)
    def test_neither_nothing_nor_a_mixture_is(self, zone: str) -> None:
        assert self.decided(zone, 0.0) is False
        assert self.decided(zone, -0.5, every_third=0.5) is False


def test_without_atoms_there_is_nothing_to_decide() -> None:
    assert not decidable(np.ones((SIZE, SIZE), np.float32), np.empty((0, 2)), SAMPLING_A)


class TestCrystal:
    """Two square lattices, strontium at the corners, oxygen in the middles, each column a spot of some brightness."""

    def decided(self, strontium: float, oxygen: float, sought: tuple[int, ...] = (0, 1)) -> tuple[bool, bool]:
        """Are they of one sign, and what `crystal_sign` says, where columns of these two are looked for."""
        corners = np.stack(np.mgrid[2:40:3.9, 2:40:3.9], axis=-1).reshape(-1, 2)
        positions = np.concatenate([corners, corners + 1.95])
        content = np.repeat(np.array([[1, 0], [0, 1]], np.uint8), len(corners), axis=0)
        image = spots(positions, np.repeat([strontium, oxygen], len(corners)), 0.5)
        kept = content[:, list(sought)].any(axis=1)
        sites = Sites(positions[kept], content[kept, 1], (38, 8), content[kept])
        asked = ([image], [sites.positions_A], sites, SAMPLING_A)
        return of_one_sign(image, sites.positions_A), crystal_sign(*asked)

    @pytest.mark.parametrize(("strontium", "oxygen"), [(1.0, 0.3), (-1.0, -0.3), (1.0, 0.0), (1.0, 1.0)])
    def test_strong_columns_of_either_sign_are_decidable(self, strontium: float, oxygen: float) -> None:
        assert self.decided(strontium, oxygen) == (True, True)

    def test_where_the_weak_ones_alone_show_it_could_be_the_crystal_shifted(self) -> None:
        assert self.decided(0.0, 1.0) == (True, False)
        assert self.decided(0.0, 1.0, sought=(0,))[1] is False  # though only strontium is looked for
        assert self.decided(1.0, 0.0, sought=(0,))[1] is True

    def test_opposite_signs_are_not_decidable(self) -> None:
        assert self.decided(1.0, -1.0) == (False, False)

    @pytest.mark.parametrize(("zone", "bright"), [("100", False), ("110", False), ("honeycomb", True)])
    def test_of_one_element_bright_ones_are_where_the_negative_is_another_lattice(
        self, zone: str, bright: bool
    ) -> None:
        if zone == "honeycomb":
            positions = Lattice().atoms_A
        else:
            counts = np.stack(np.mgrid[-5:6, -5:6], axis=-1).reshape(-1, 2)
            positions = counts @ np.array(STEPS[zone]) + SIZE * SAMPLING_A / 2
        for brightness, told in ((1.0, bright), (-0.5, True)):
            image = spots(positions, np.full(len(positions), brightness), 0.35)
            asked = ([image], [positions], Sites.of_carbon(positions), SAMPLING_A)
            assert crystal_sign(*asked) is True
            assert element_sign(*asked) is told

    def test_without_columns_there_is_nothing_to_decide(self) -> None:
        none = Sites(np.empty((0, 2)), np.empty(0, np.uint8), (38,), np.empty((0, 1), np.uint8))
        for rule in (crystal_sign, element_sign):
            assert not rule([np.ones((SIZE, SIZE), np.float32)], [none.positions_A], none, SAMPLING_A)
