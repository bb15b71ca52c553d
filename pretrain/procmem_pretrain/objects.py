"""Scenes of objects: parts that differ, inside a shape that moves, deforms and is occluded as one.

Takes a source of images as materials, gives scenes to `processes.py`. The published processes mix
whole images, so that what belongs together is never shown; their features are known to tell parts
of one object apart and to confuse objects with their surroundings (paper, section on limits). Here
every object has a silhouette (a rounded body, limbs, often a symmetry), two to three parts of
different material in its own coordinates, one tint, one light, a shadow, and a place in front of or
behind others. Frames of one scene show the same objects moved, turned, bent and covered otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

Source = Callable[[int, np.random.Generator], Tensor]

OBJECTS = 3
"""Places for objects in a scene; some stay empty."""

_LIMBS = 4
_PARTS = 3
_HARMONICS = 4

Numbers = dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True, slots=True, eq=False)
class Scenes:
    """Scenes and what is where in them.

    Attributes:
        images: (N, F, 3, S, S) float32 in [0, 1], F frames of each scene.
        objects: (N, F, S, S) uint8: 0 where the background is, else 1 to OBJECTS; an object has
            the same number in all frames of its scene.
    """

    images: Tensor
    objects: Tensor


def scenes(source: Source, count: int, random: np.random.Generator, *, frames: int = 1) -> Scenes:
    """Draws scenes.

    Args:
        source: materials and backgrounds.
        count: N, 1 or more.
        random: every choice.
        frames: F, 1 or more; every frame after the first moves all objects, and half of them
            stand before another background.
    """
    background = source(count, random)
    side, device = background.shape[-1], background.device
    other = source(count, random) if frames > 1 else background
    light = random.uniform(0, 2 * math.pi, count)
    bodies = [_draw_body(random, count) for _ in range(OBJECTS)]
    materials = [
        torch.stack([source(count, random) for _ in range(_PARTS)], 1) for _ in range(OBJECTS)
    ]
    present = random.random((count, OBJECTS)) < np.array([1.0, 0.6, 0.35])
    pictures, maps = [], []
    for frame in range(frames):
        changed = torch.from_numpy(random.random(count) < (0.5 if frame else 0.0)).to(device)
        picture = torch.where(changed[:, None, None, None], other, background)
        picture = _shifted(picture, random if frame else None)
        index = torch.zeros(count, side, side, dtype=torch.uint8, device=device)
        for number, body in enumerate(bodies):
            pose = _draw_pose(random, count)
            painted, covered = _paint(picture, body, pose, materials[number], light)
            there = torch.from_numpy(present[:, number]).to(device)[:, None, None]
            picture = torch.where(there.unsqueeze(1), painted, picture)
            index[covered & there] = number + 1
        pictures.append(picture.clamp(0, 1))
        maps.append(index)
    return Scenes(torch.stack(pictures, 1), torch.stack(maps, 1))


def _draw_body(random: np.random.Generator, count: int) -> Numbers:
    """What stays of an object in all its frames."""
    limbed = random.random((count, 1)) < 0.6
    limbs = random.random((count, _LIMBS)) < 0.75
    return {
        "size": np.exp(random.uniform(math.log(0.28), math.log(0.75), count)),
        "stretch": np.exp(random.uniform(-0.5, 0.5, count)),
        # Exponent of the body's norm: 2 is round, 8 nearly a box, 1 a diamond.
        "squareness": random.choice([2.0, 2.0, 2.0, 1.3, 4.0, 8.0], count),
        "waves": random.uniform(-1, 1, (count, _HARMONICS)) / np.arange(2, 2 + _HARMONICS) ** 1.2,
        "phases": random.uniform(0, 2 * math.pi, (count, _HARMONICS)),
        "roughness": random.uniform(0.0, 0.6, count),
        "mirrored": (random.random(count) < 0.5).astype(np.float64),
        "limb_angles": random.uniform(0, 2 * math.pi, (count, _LIMBS)),
        "limb_lengths": random.uniform(0.4, 1.0, (count, _LIMBS)),
        "limb_widths": np.where(limbed & limbs, random.uniform(0.08, 0.28, (count, _LIMBS)), -9.0),
        "part_places": random.uniform(-0.7, 0.7, (count, _PARTS, 2)),
        "material_zoom": np.exp(random.uniform(-0.7, 0.9, (count, _PARTS))),
        "material_place": random.uniform(-0.5, 0.5, (count, _PARTS, 2)),
        "tint": random.uniform(0.15, 1.0, (count, 3)),
        "tinted": random.uniform(0.0, 0.8, count),
        "rim": random.uniform(0.08, 0.5, count),
        "relief": random.uniform(0.0, 1.0, count),
        "shadow": random.uniform(0.0, 0.7, count),
    }


def _draw_pose(random: np.random.Generator, count: int) -> Numbers:
    """What changes from frame to frame."""
    return {
        "x": random.uniform(-0.65, 0.65, count),
        "y": random.uniform(-0.65, 0.65, count),
        "angle": random.normal(0.0, 0.7, count) + math.pi * (random.random(count) < 0.15),
        "zoom": np.exp(random.normal(0.0, 0.2, count)),
        "bend": random.normal(0.0, 0.4, count),
        "swing": random.normal(0.0, 0.35, (count, _LIMBS)),
        "view": random.uniform(-0.25, 0.25, count),
    }


def _paint(
    below: Tensor, body: Numbers, pose: Numbers, materials: Tensor, light: npt.NDArray[np.float64]
) -> tuple[Tensor, Tensor]:
    """One object over each picture: (N, 3, S, S), and what it covers (N, S, S) bool."""
    number = _Column(below.device)
    x, y = _own_coordinates(below, body, pose, number)
    distance = _distance(x, y, body, pose, number)  # (N, S, S), in units of the object
    material = _material(x, y, body, materials, number)
    scale = number(body["size"] * pose["zoom"])
    pixel = 2.0 / below.shape[-1] / scale
    cover = (0.5 - distance / pixel).clamp(0, 1)  # one pixel wide: antialiased
    lit = _light(distance, body, light, number, scale)
    solid = material * lit.unsqueeze(1)
    shade = (1 - distance.clamp(min=0) / 0.35).clamp(0, 1).square()
    dimmed = below * (1 - number(body["shadow"]) * shade).unsqueeze(1)
    painted = torch.lerp(dimmed, solid, cover.unsqueeze(1))
    return painted, cover > 0.5


class _Column:
    """Numbers of N scenes as a float32 tensor that broadcasts over pixels."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __call__(self, values: npt.NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(self._device)[:, None, None]


def _own_coordinates(
    below: Tensor, body: Numbers, pose: Numbers, number: _Column
) -> tuple[Tensor, Tensor]:
    """The object's own coordinates of every pixel: moved, turned, scaled, bent."""
    side = below.shape[-1]
    axis = (torch.arange(side, device=below.device) + 0.5) * (2 / side) - 1
    x = axis[None, None, :] - number(pose["x"])
    y = axis[None, :, None] - number(pose["y"])
    size = body["size"] * pose["zoom"]
    cosine, sine = np.cos(pose["angle"]) / size, np.sin(pose["angle"]) / size
    u = number(cosine) * x + number(sine) * y
    v = number(cosine) * y - number(sine) * x
    # Seen a little from the side, and bent along its length.
    u = u * number(body["stretch"] * (1 + pose["view"]))
    bend = number(pose["bend"])
    return u + bend * (v * v - 0.3), v


def _distance(x: Tensor, y: Tensor, body: Numbers, pose: Numbers, number: _Column) -> Tensor:
    """Signed distance (a bound) to the silhouette, negative inside."""
    mirrored = number(body["mirrored"])
    x = x + mirrored * (x.abs() - x)
    exponent = number(body["squareness"])
    radius = (x.abs().pow(exponent) + y.abs().pow(exponent) + 1e-6).pow(1 / exponent)
    angle = torch.atan2(y, x)
    rim = torch.full_like(radius, 0.6)
    roughness = 0.6 * body["roughness"]
    for k in range(_HARMONICS):
        wave = torch.cos((k + 2) * angle + number(body["phases"][:, k]))
        rim = rim + number(roughness * body["waves"][:, k]) * wave
    distance = radius - rim
    for k in range(_LIMBS):
        turn = body["limb_angles"][:, k] + pose["swing"][:, k]
        tip_x = number(np.cos(turn) * body["limb_lengths"][:, k])
        tip_y = number(np.sin(turn) * body["limb_lengths"][:, k])
        share = ((x * tip_x + y * tip_y) / (tip_x * tip_x + tip_y * tip_y)).clamp(0, 1)
        away = ((x - share * tip_x).square() + (y - share * tip_y).square() + 1e-8).sqrt()
        limb = away - number(body["limb_widths"][:, k])
        # Quadratic smooth minimum (Quilez) over 0.12 of the object's size.
        blend = (0.12 - (distance - limb).abs()).clamp(min=0) / 0.12
        distance = torch.minimum(distance, limb) - 0.03 * blend * blend
    return distance


def _material(x: Tensor, y: Tensor, body: Numbers, materials: Tensor, number: _Column) -> Tensor:
    """Color of the object's inside, (N, 3, S, S): a part of each material around its place."""
    parts = []
    for k in range(_PARTS):
        place = body["part_places"][:, k]
        parts.append((x - number(place[:, 0])).square() + (y - number(place[:, 1])).square())
    nearest = torch.stack(parts, 1).argmin(1)  # (N, S, S)
    u = torch.zeros_like(x)
    v = torch.zeros_like(y)
    for k in range(_PARTS):
        mine = nearest == k
        shift = body["material_place"][:, k]
        scale = number(body["material_zoom"][:, k])
        u = torch.where(mine, x * scale + number(shift[:, 0]), u)
        v = torch.where(mine, y * scale + number(shift[:, 1]), v)
    # One look-up for all parts: the materials stand side by side in one wide picture.
    wide = torch.cat(materials.unbind(1), dim=3)  # (N, 3, S, parts * S)
    inside = (_mirrored(u) * 0.98 + 1 + 2 * nearest) / _PARTS - 1
    grid = torch.stack([inside, _mirrored(v)], dim=3)
    color = functional.grid_sample(wide, grid, align_corners=False, padding_mode="border")
    tinted = number(body["tinted"]).unsqueeze(1)
    tint = torch.from_numpy(body["tint"].astype(np.float32)).to(x.device)[:, :, None, None]
    grey = color.mean(1, keepdim=True)
    return torch.lerp(color, (0.3 + 0.9 * grey) * tint, tinted)


def _mirrored(values: Tensor) -> Tensor:
    """Coordinates folded into [-1, 1], as a tiling of mirrored tiles repeats."""
    return (torch.remainder(values - 1, 4) - 2).abs() - 1


def _light(
    distance: Tensor,
    body: Numbers,
    light: npt.NDArray[np.float64],
    number: _Column,
    scale: Tensor,
) -> Tensor:
    """Brightness (N, S, S) of a cushion whose height is the distance from the rim."""
    inside = (-distance / number(body["rim"])).clamp(0, 1)
    height = (inside * (2 - inside)).clamp(min=1e-4).sqrt()
    step = 4.0 / distance.shape[-1] / scale  # two pixels in units of the object
    padded = functional.pad(height.unsqueeze(1), (1, 1, 1, 1), mode="replicate").squeeze(1)
    dx = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / step
    dy = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / step
    relief = number(0.4 * body["rim"] * body["relief"])
    dx, dy = dx * relief, dy * relief
    # The light does not turn with the object, so its direction needs no pose.
    toward = -dx * number(np.cos(light)) - dy * number(np.sin(light)) + 1.0
    lambert = toward / (1 + dx * dx + dy * dy).sqrt()
    return 0.25 + 0.75 * lambert.clamp(0, 1.5)


def _shifted(images: Tensor, random: np.random.Generator | None) -> Tensor:
    """The pictures moved, turned and scaled a little; None leaves them."""
    if random is None:
        return images
    count = len(images)
    angle = random.normal(0.0, 0.3, count)
    zoom = np.exp(random.normal(-0.2, 0.15, count))
    theta = np.zeros((count, 2, 3), np.float32)
    theta[:, 0, 0], theta[:, 0, 1] = zoom * np.cos(angle), -zoom * np.sin(angle)
    theta[:, 1, 0], theta[:, 1, 1] = zoom * np.sin(angle), zoom * np.cos(angle)
    theta[:, :, 2] = random.uniform(-0.3, 0.3, (count, 2))
    grid = functional.affine_grid(
        torch.from_numpy(theta).to(images.device), list(images.shape), align_corners=False
    )
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
