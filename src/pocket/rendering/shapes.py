"""Where rays meet the unit shapes, and the surfaces' normals there."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from src.pocket.rendering.scene import Kind, vector

Vectors = Float32[np.ndarray, "n 3"]
FAR = np.float32(1e9)


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row-wise dot product; much quicker than a sum over an axis of three."""
    return np.asarray(a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2])


def _hit_sphere(o: np.ndarray, d: np.ndarray) -> np.ndarray:
    a, b, c = dot(d, d), dot(d, o), dot(o, o) - 1
    inside = b * b - a * c
    t = (-b - np.sqrt(np.maximum(inside, 0))) / a
    return np.where((inside > 0) & (t > 0), t, FAR)


def _hit_box(o: np.ndarray, d: np.ndarray) -> np.ndarray:
    inverse = 1 / np.where(np.abs(d) < 1e-9, np.float32(1e-9), d)
    first, second = (-1 - o) * inverse, (1 - o) * inverse
    near, far = np.minimum(first, second).max(-1), np.maximum(first, second).min(-1)
    return np.where((near < far) & (near > 0), near, FAR)


def _hit_round(o: np.ndarray, d: np.ndarray, slope: float) -> np.ndarray:
    """A cylinder (slope 0) or a cone with its tip at z = 1 (slope 1/2): radius 1 - slope (z + 1)."""
    top, rise = 1 - slope * (o[..., 2] + 1), -slope * d[..., 2]
    a = d[..., 0] ** 2 + d[..., 1] ** 2 - rise**2
    b = d[..., 0] * o[..., 0] + d[..., 1] * o[..., 1] - rise * top
    c = o[..., 0] ** 2 + o[..., 1] ** 2 - top**2
    inside = b * b - a * c
    root = np.sqrt(np.maximum(inside, 0))
    safe = np.where(np.abs(a) < 1e-9, np.float32(1e-9), a)
    best = np.full(inside.shape, FAR, dtype=np.float32)
    for t in ((-b - root) / safe, (-b + root) / safe):
        z = o[..., 2] + t * d[..., 2]
        best = np.where((inside > 0) & (t > 0) & (np.abs(z) <= 1) & (t < best), t, best)
    for cap in (-1, 1) if slope == 0 else (-1,):
        t = (cap - o[..., 2]) / np.where(np.abs(d[..., 2]) < 1e-9, np.float32(1e-9), d[..., 2])
        x, y = o[..., 0] + t * d[..., 0], o[..., 1] + t * d[..., 1]
        best = np.where((t > 0) & (x * x + y * y <= 1) & (t < best), t, best)
    return best


def hit(kind: Kind, o: np.ndarray, d: np.ndarray) -> np.ndarray:
    """How far along each ray (from `o` along `d`, in the unit shape's space) it is met, or FAR."""
    if kind == "sphere":
        return _hit_sphere(o, d)
    if kind == "box":
        return _hit_box(o, d)
    return _hit_round(o, d, 0.0 if kind == "cylinder" else 0.5)


def local_normals(kind: Kind, p: Vectors) -> Vectors:
    """Outward normals (any length) at points of the unit shape's surface."""
    if kind == "sphere":
        return p
    if kind == "box":
        axis = np.abs(p).argmax(-1)
        normals = np.zeros_like(p)
        rows = np.arange(len(p))
        normals[rows, axis] = np.sign(p[rows, axis])
        return normals
    lift = np.float32(0.0 if kind == "cylinder" else 0.5)
    radial = np.hypot(p[:, 0], p[:, 1])
    side = np.stack([p[:, 0], p[:, 1], lift * np.maximum(radial, 1e-6)], axis=-1)
    cap = np.abs(np.abs(p[:, 2]) - 1) < 1e-3
    cap &= radial < (0.999 if kind == "cylinder" else 2) if kind == "cylinder" else p[:, 2] < 0
    return np.where(cap[:, None], np.sign(p[:, 2:3]) * vector(0, 0, 1), side)


def normalised(v: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return (v / np.maximum(np.sqrt(dot(v, v)), np.float32(1e-9))[..., None]).astype(np.float32)
