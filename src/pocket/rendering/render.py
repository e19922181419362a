"""A small ray caster in numpy: solids on a floor before a wall or a sky, with soft shadows and soft focus.

Everything is float32, vectorised over pixels, and a pure function of its arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int16, UInt8

from src.pocket.rendering.scene import Camera, Light, Solid, Stage, Vector, mix, smoothstep, vector
from src.pocket.rendering.shapes import FAR, dot, hit, local_normals, normalised

Vectors = Float32[np.ndarray, "n 3"]
Scalars = Float32[np.ndarray, "n"]

_FLOOR, _BACKDROP = -1, -2
_BAND = 1 << 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """The picture (sRGB) and which of its pixels show the subject."""

    pixels: UInt8[np.ndarray, "h w 3"]
    subject: Bool[np.ndarray, "h w"]


def _rays(camera: Camera, width: int, height: int) -> Float32[np.ndarray, "h w 3"]:
    right, up, forward = camera.basis()
    half = np.float32(np.tan(camera.field_of_view / 2))
    x = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) * (2 * half / height)
    y = (height / 2 - np.arange(height, dtype=np.float32) - 0.5) * (2 * half / height)
    return normalised(forward + x[None, :, None] * right + y[:, None, None] * up)


def _window(solid: Solid, camera: Camera, width: int, height: int) -> tuple[slice, slice] | None:
    """The rows and columns a solid can touch."""
    centre = camera.basis() @ (solid.centre - camera.position)
    radius = solid.radius()
    if centre[2] + radius <= 0:
        return None
    if centre[2] <= radius * 1.5:
        return slice(0, height), slice(0, width)
    focal = height / (2 * np.tan(camera.field_of_view / 2))
    reach = focal * radius / (centre[2] - radius) * 1.1 + 2
    column = width / 2 + focal * centre[0] / centre[2]
    row = height / 2 - focal * centre[1] / centre[2]
    rows = slice(max(0, int(row - reach)), min(height, int(row + reach) + 1))
    columns = slice(max(0, int(column - reach)), min(width, int(column + reach) + 1))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def _trace(
    solids: Sequence[Solid], stage: Stage, camera: Camera, rays: Float32[np.ndarray, "h w 3"]
) -> tuple[Float32[np.ndarray, "h w"], Int16[np.ndarray, "h w"]]:
    """The distance to what each ray meets first, and what that is: a solid's index, floor or backdrop."""
    height, width = rays.shape[:2]
    down = rays[..., 2] < -1e-4
    distance = np.where(down, -camera.position[2] / np.where(down, rays[..., 2], -1), FAR).astype(np.float32)
    owner = np.where(down, _FLOOR, _BACKDROP).astype(np.int16)
    if stage.wall_distance is not None:
        ahead = rays[..., 1] > 1e-4
        wall = (stage.wall_distance - camera.position[1]) / np.where(ahead, rays[..., 1], 1)
        nearer = ahead & (wall < distance)
        distance = np.where(nearer, wall, distance).astype(np.float32)
        owner[nearer] = _BACKDROP
    for index, solid in enumerate(solids):
        window = _window(solid, camera, width, height)
        if window is None:
            continue
        inverse = np.linalg.inv(solid.axes).astype(np.float32)
        t = hit(solid.kind, inverse @ (camera.position - solid.centre), rays[window] @ inverse.T)
        nearer = t < distance[window]
        distance[window] = np.where(nearer, t, distance[window])
        owner[window][nearer] = index
    return distance, owner


def owners(solids: Sequence[Solid], camera: Camera, width: int, height: int) -> Int16[np.ndarray, "h w"]:
    """Which solid each pixel's centre shows, by index; negative where it shows none."""
    nothing = Stage(floor=lambda x, y: np.ones((len(x), 3)), backdrop=lambda x, y: np.ones((len(x), 3)))
    return _trace(solids, nothing, camera, _rays(camera, width, height))[1]


def _visibility(
    solids: Sequence[Solid], light: Light, points: Vectors, owners: Int16[np.ndarray, " n"]
) -> tuple[Scalars, Scalars]:
    """How much of the key light (soft-edged) and of the surroundings' light reaches each point.

    Penumbra: the closest approach of the ray to the solid over the distance to it, in the solid's own
    space (I. Quilez, "sphere soft shadow"); cylinders and cones are taken as ellipsoids there.
    """
    key, ambient = np.ones(len(points), dtype=np.float32), np.ones(len(points), dtype=np.float32)
    # Coordinates along the light and across it, so that most points are ruled out cheaply.
    across = normalised(np.cross(light.direction, vector(1, 0, 0)))
    frame = np.stack([across, np.cross(light.direction, across), light.direction]).astype(np.float32)
    u, v, w = np.ascontiguousarray((points @ frame.T).T)
    for index, solid in enumerate(solids):
        if not solid.casts_shadow:
            continue
        inverse = np.linalg.inv(solid.axes).astype(np.float32)
        d = inverse @ light.direction
        d = d / np.linalg.norm(d)
        place = frame @ solid.centre
        along = w - place[2]
        aside = (u - place[0]) ** 2 + (v - place[1]) ** 2
        radius = np.float32(solid.radius())
        reach = radius * 1.3 + np.maximum(-along, 0) * np.float32(1.2 / light.softness)
        chosen = np.flatnonzero((aside < reach * reach) & (along < radius) & (owners != index))
        o = (points[chosen] - solid.centre) @ inverse.T
        if solid.kind == "box":
            inverse_d = 1 / np.where(np.abs(d) < 1e-6, np.float32(1e-6), d)
            first, second = (-1 - o) * inverse_d, (1 - o) * inverse_d
            entry, leave = np.minimum(first, second).max(-1), np.maximum(first, second).min(-1)
            miss, ahead = (entry - leave) * 0.5, np.maximum(entry, 0.02)
            lit = np.where(leave <= 0, 1, smoothstep(-1, 1, light.softness * miss / ahead))
        else:
            b, c = o @ d, dot(o, o) - 1
            inside = b * b - c
            miss = np.sqrt(np.maximum(1 - inside, 0)) - 1
            ahead = np.maximum(-b, 0.05)
            lit = np.where(-b <= 0, 1, smoothstep(-1, 1, light.softness * miss / ahead))
        key[chosen] *= lit.astype(np.float32)
        squared = aside + along * along
        mean = np.float32(np.abs(np.linalg.det(solid.axes)) ** (1 / 3))
        around = np.flatnonzero((squared < (3 * mean) ** 2) & (owners != index))
        share = 0.55 * mean**2 / np.maximum(squared[around], mean**2)
        ambient[around] *= (1 - share * share).astype(np.float32)
    return key, ambient


def _background_colours(
    stage: Stage, floor_mean: Vector, points: Vectors, rays: Vectors, owners: Int16[np.ndarray, " n"]
) -> tuple[Vectors, Vectors, Bool[np.ndarray, " n"]]:
    """Colours and normals of floor and backdrop, and which of them shine by themselves (the open air)."""
    colours, normals = np.zeros_like(points), np.zeros_like(points)
    floor, behind = owners == _FLOOR, owners == _BACKDROP
    unlit = np.zeros(len(points), dtype=bool)
    on_floor = points[floor]
    if len(on_floor):
        texture = stage.floor(on_floor[:, 0], on_floor[:, 1]).astype(np.float32)
        # Far away the texture is finer than a pixel: fade to its mean instead of flickering.
        far = smoothstep(9, 26, np.hypot(on_floor[:, 0], on_floor[:, 1]))
        colours[floor] = mix(texture, floor_mean, far)
        normals[floor] = vector(0, 0, 1)
    if stage.wall_distance is not None:
        on_wall = points[behind]
        if len(on_wall):
            colours[behind] = stage.backdrop(on_wall[:, 0], on_wall[:, 2])
        normals[behind] = vector(0, -1, 0)
    else:
        sky = rays[behind]
        if len(sky):
            colours[behind] = stage.backdrop(
                np.arctan2(sky[:, 0], sky[:, 1]), np.arcsin(np.clip(sky[:, 2], -1, 1))
            )
        unlit = behind
    return colours, normals, unlit


def _shade(
    *,
    solids: Sequence[Solid],
    stage: Stage,
    floor_mean: Vector,
    light: Light,
    camera: Camera,
    rays: Vectors,
    distance: Scalars,
    owners: Int16[np.ndarray, " n"],
    visibility: tuple[Scalars, Scalars],
) -> Vectors:
    """Lambert and Blinn-Phong light of the surfaces met, in linear RGB."""
    points = camera.position + rays * np.minimum(distance, 1e4)[:, None]
    colours, normals, unlit = _background_colours(stage, floor_mean, points, rays, owners)
    specular = np.where(owners == _FLOOR, np.float32(stage.floor_gloss), 0).astype(np.float32)
    shininess, glow = np.full(len(points), 60, dtype=np.float32), np.zeros(len(points), dtype=np.float32)
    order = np.argsort(owners, kind="stable")
    starts = np.searchsorted(owners[order], np.arange(len(solids) + 1))
    for index, solid in enumerate(solids):
        mine = order[starts[index] : starts[index + 1]]
        if not len(mine):
            continue
        inverse = np.linalg.inv(solid.axes).astype(np.float32)
        local = (points[mine] - solid.centre) @ inverse.T
        material = solid.material
        colours[mine] = material.colour(local) if callable(material.colour) else vector(*material.colour)
        normals[mine] = normalised(local_normals(solid.kind, local) @ inverse)
        specular[mine], shininess[mine], glow[mine] = material.specular, material.shininess, material.glow
    key, ambient = visibility
    # A little wrap: the terminator of a soft lamp is not a line.
    lambert = np.clip((normals @ light.direction + 0.15) / 1.15, 0, 1)
    half = normalised(light.direction - rays)
    shine = specular * np.clip(dot(normals, half), 0, 1) ** shininess
    facing = np.clip(-dot(normals, rays), 0, 1)
    rim = np.where(owners >= 0, 0.18 * (1 - facing) ** 3, 0)
    up = (0.5 + 0.5 * normals[:, 2])[:, None]
    around = vector(*light.sky) * up + vector(*light.bounce) * (1 - up)
    shaded = colours * (around * ambient[:, None] + vector(*light.key) * (lambert * key)[:, None])
    shaded += vector(*light.key) * (shine * key)[:, None] + vector(*light.sky) * (rim * ambient)[:, None]
    shaded += colours * glow[:, None]
    shaded = np.where(unlit[:, None], colours, shaded)
    if stage.wall_distance is None:
        fog = np.where(owners == _BACKDROP, 0, 1 - np.exp(-np.maximum(distance - 8, 0) / 120))
        shaded = mix(shaded, stage.haze, fog.astype(np.float32))
    return shaded.astype(np.float32)


def _blurred(image: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian blur along both axes, edges repeated."""
    reach = max(1, int(np.ceil(2 * radius)))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / radius) ** 2).astype(np.float32)
    taps /= taps.sum()
    for axis in (0, 1):
        pad = [(0, 0)] * image.ndim
        pad[axis] = (reach, reach)
        padded, size = np.pad(image, pad, mode="edge"), image.shape[axis]
        image = sum(
            (tap * np.take(padded, range(k, k + size), axis=axis) for k, tap in enumerate(taps)),
            start=np.zeros_like(image),
        )
    return image


def _pooled(values: np.ndarray, factor: int) -> np.ndarray:
    """Mean over factor x factor blocks."""
    height, width = values.shape[0] // factor, values.shape[1] // factor
    return values.reshape(height, factor, width, factor, *values.shape[2:]).mean(axis=(1, 3))


def to_srgb(linear: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """A gentle shoulder for the brightest parts, then the sRGB curve, in 8 bits."""
    x = np.maximum(linear, 0)
    x = np.where(x > 0.7, 0.7 + 0.3 * (1 - np.exp(-(x - 0.7) / 0.3)), x)
    encoded = np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.power(np.maximum(x, 1e-6), 1 / 2.4) - 0.055)
    return np.round(np.clip(encoded, 0, 1) * 255).astype(np.uint8)


def render(
    subject: Sequence[Solid],
    *,
    stage: Stage,
    camera: Camera,
    light: Light,
    width: int,
    height: int,
    supersampling: int = 2,
    background_blur: float = 0.0,
) -> Rendering:
    """Draws the subject on the stage.

    Args:
        subject: the solids that `Rendering.subject` marks.
        stage: floor, backdrop and the other solids.
        camera: where the picture is taken from.
        light: one key light, sky and bounce.
        width: pixels.
        height: pixels.
        supersampling: rays along each side of a pixel.
        background_blur: standard deviation in pixels of what lies far behind the subject.
    """
    solids = [*subject, *stage.solids]
    rays = _rays(camera, width * supersampling, height * supersampling)
    distance, owner = _trace(solids, stage, camera, rays)
    # Shadows are soft: one ray a pixel is enough for them.
    rough = (slice(supersampling // 2, None, supersampling),) * 2
    points = camera.position + rays[rough] * np.minimum(distance[rough], 1e4)[..., None]
    coarse = _visibility(solids, light, points.reshape(-1, 3), owner[rough].reshape(-1))
    key, ambient = (
        v.reshape(height, width).repeat(supersampling, 0).repeat(supersampling, 1).reshape(-1) for v in coarse
    )
    spots = np.random.default_rng(0).uniform(-9, 9, size=(2, 4096)).astype(np.float32)
    floor_mean = stage.floor(spots[0], spots[1]).mean(0).astype(np.float32)
    flat, rays_flat = np.empty((owner.size, 3), dtype=np.float32), rays.reshape(-1, 3)
    # In bands that fit the processor's cache: much faster than all at once.
    for start in range(0, owner.size, _BAND):
        band = slice(start, start + _BAND)
        flat[band] = _shade(
            solids=solids,
            stage=stage,
            floor_mean=floor_mean,
            light=light,
            camera=camera,
            rays=rays_flat[band],
            distance=distance.reshape(-1)[band],
            owners=owner.reshape(-1)[band],
            visibility=(key[band], ambient[band]),
        )
    image = _pooled(flat.reshape(*rays.shape), supersampling)
    marked = _pooled(((owner >= 0) & (owner < len(subject))).astype(np.float32), supersampling)
    if background_blur > 0:
        focus = float(np.linalg.norm(camera.target - camera.position))
        sharp = np.isin(owner, [i for i, solid in enumerate(solids) if solid.in_focus])
        behind = _pooled(np.where(sharp, 0, smoothstep(focus * 1.08, focus * 1.7, distance)), supersampling)
        weight = np.maximum(_blurred(behind, background_blur), 1e-4)
        soft = _blurred(image * behind[..., None], background_blur) / weight[..., None]
        image = mix(image, soft, behind)
    return Rendering(pixels=to_srgb(image), subject=marked > 0.5)
