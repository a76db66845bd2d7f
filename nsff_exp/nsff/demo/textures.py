"""Pictures on the surfaces of the synthetic scene: wood, bricks, books, posters, a face, letters."""

import math

import numpy as np

from nsff.demo.paint import Colour, Picture, band_noise, disc, grid_of, plain, rectangle, text, weather

CREAM: Colour = (0.95, 0.90, 0.78)
CORAL: Colour = (0.91, 0.38, 0.31)
MUSTARD: Colour = (0.93, 0.70, 0.23)
PETROL: Colour = (0.12, 0.36, 0.42)
TEAL: Colour = (0.36, 0.62, 0.60)
NAVY: Colour = (0.13, 0.17, 0.32)
PINE: Colour = (0.24, 0.45, 0.30)
PALETTE = CREAM, CORAL, MUSTARD, PETROL, TEAL, NAVY, PINE


def parquet(rng: np.random.Generator, size: int, squares: int = 8, strips: int = 4) -> Picture:
    """Basket-weave parquet: squares of strips, in turn across and along, each strip with its own tone."""
    shape = round(1.5 * size), round(1.5 * size)
    down, right = (axis * squares for axis in grid_of(shape))
    square = down.astype(int) * squares + right.astype(int)
    across = (down.astype(int) + right.astype(int)) % 2 == 0
    along, beside = np.where(across, right, down) % 1.0, np.where(across, down, right) % 1.0
    strip = square * strips + (beside * strips).astype(int)
    tone = rng.choice([0.55, 0.85, 1.0, 1.15, 1.3], len(np.unique(strip)))[strip]
    grain = 0.09 * band_noise(rng, shape, 10.0, 150.0)
    picture = np.array((0.62, 0.42, 0.26)) * (tone + grain)[..., None]
    edge = (np.abs((beside * strips) % 1.0 - 0.5) > 0.45) | (np.abs(along - 0.5) > 0.485)
    return weather(rng, np.where(edge[..., None], 0.17, picture), 2.0)


def planks(rng: np.random.Generator, size: int, boards: int = 10, colour: Colour = (0.66, 0.45, 0.28)) -> Picture:
    """Wooden boards that run downwards, each with its own tone, grain and end."""
    shape = size, size
    down, right = grid_of(shape)
    board = (right * boards).astype(int)
    end = rng.uniform(0.0, 1.0, boards)[board]
    piece = board + boards * (((down + end) % 1.0) > 0.5)
    tone = rng.uniform(0.72, 1.12, 2 * boards)[piece]
    grain = 0.11 * band_noise(rng, shape, 8.0, 200.0, 10.0)
    edge = np.abs((right * boards) % 1.0 - 0.5) > 0.47
    edge |= np.abs((down + end) % 0.5 - 0.25) > 0.247
    return np.where(edge[..., None], 0.17, np.array(colour) * (tone + grain)[..., None])


def bricks(rng: np.random.Generator, size: int) -> Picture:
    """A painted brick wall, with the bricks' upper edges in the light and paint worn off in places."""
    shape, rows, columns = (size, 2 * size), 16, 16
    down, right = grid_of(shape)
    row = (down * rows).astype(int)
    across = right * columns + 0.5 * (row % 2)
    brick = row * columns + across.astype(int) % columns
    tone = rng.choice([0.7, 0.85, 1.0, 1.1, 1.25], rows * columns)[brick]
    off_down, off_right = (down * rows) % 1.0, np.abs(across % 1.0 - 0.5)
    relief = 0.12 * (off_down < 0.2) - 0.14 * (off_down > 0.82)
    picture = np.array(TEAL) * (tone + relief)[..., None]
    worn = band_noise(rng, shape, 5.0, 60.0) + 0.6 * rng.standard_normal(rows * columns)[brick] > 2.0
    picture = np.where(worn[..., None], (0.63, 0.40, 0.31), picture)
    joint = (off_down < 0.09) | (off_right > 0.46)
    return weather(rng, np.where(joint[..., None], (0.66, 0.70, 0.66), picture), 2.0)


def rug(rng: np.random.Generator, size: int) -> Picture:
    """A woven rug: border, fringe, and diamonds within diamonds, each in colours of its own."""
    shape = size, round(1.6 * size)
    down, right = grid_of(shape)
    cell = 6 * (down * 4.0).astype(int) + (right * 6.0).astype(int)
    across = np.abs((right * 6.0) % 1.0 - 0.5) + np.abs((down * 4.0) % 1.0 - 0.5)
    yarns = np.array([CORAL, NAVY, MUSTARD, CREAM, TEAL])
    colours = np.stack([rng.permutation(yarns) for _ in range(24)])
    colours[:, 3] = CORAL  # the corners of the cells, which meet
    picture = colours[cell, np.minimum((across * 6.0).astype(int), 3)]
    margin = np.minimum(np.minimum(down, 1.0 - down), 1.6 * np.minimum(right, 1.0 - right))
    picture[margin < 0.13] = NAVY
    picture[(margin < 0.10) & (np.abs((28.0 * (right * 1.6 + down)) % 1.0 - 0.5) < 0.25)] = MUSTARD
    picture[margin < 0.05] = CREAM
    return weather(rng, picture, 2.0)


def books(rng: np.random.Generator, size: int, shelves: int = 4) -> Picture:
    """A bookshelf: spines of several widths and heights, with bands and titles."""
    picture = plain((size, size), (0.13, 0.09, 0.07))
    wood = planks(rng, size, 4, (0.52, 0.34, 0.20)).transpose(1, 0, 2)
    for shelf in range(shelves):
        floor = (shelf + 0.92) / shelves
        left = 0.035
        while left < 0.95:
            width, height = rng.uniform(0.035, 0.085), rng.uniform(0.62, 0.86) / shelves
            right = min(left + width, 0.965)
            colour = np.array(PALETTE[rng.integers(len(PALETTE))]) * rng.uniform(0.75, 1.05)
            rectangle(picture, floor - height, left, floor, right - 0.003, tuple(colour))
            ink = CREAM if colour.mean() < 0.55 else NAVY
            for start in rng.choice([0.1, 0.2, 0.75, 0.85], 2, replace=False):
                rectangle(picture, floor - height * start - 0.008, left, floor - height * start, right - 0.003, ink)
            middle, quarter = (left + right) / 2, width / 6
            top = floor - height * rng.uniform(0.6, 0.7)
            rectangle(picture, top, middle - quarter, floor - 0.3 * height, middle + quarter, ink)
            left = right + (rng.uniform(0.02, 0.06) if rng.uniform() < 0.12 else 0.0)
    down, across = grid_of((size, size))
    frame = (np.abs(across - 0.5) > 0.465) | ((down * shelves) % 1.0 > 0.92) | (down < 0.02)
    return weather(rng, np.where(frame[..., None], wood, picture), 1.5)


def window(rng: np.random.Generator, size: int) -> Picture:
    """A window with four panes: sky, clouds, hills."""
    shape = size, round(1.25 * size)
    down, right = grid_of(shape)
    sky = np.array([0.38, 0.62, 0.90]) + np.clip(down * 1.2, 0.0, 1.0)[..., None] * np.array([0.55, 0.28, 0.05])
    cloud = (0.9 * band_noise(rng, shape, 2.0, 24.0, 0.4) - 0.3).clip(0.0, 1.0)[..., None]
    picture = sky + cloud * (np.array([1.0, 0.98, 0.95]) - sky)
    for k, (colour, base) in enumerate((((0.40, 0.55, 0.58), 0.62), ((0.36, 0.55, 0.34), 0.74))):
        ridge = base + 0.07 * np.sin(2.0 * math.pi * (right * (1.3 + k) + 0.3 + 0.37 * k)) + 0.02 * np.sin(31.0 * right)
        hill = np.array(colour) * (1.0 + 0.10 * band_noise(rng, shape, 6.0, 60.0))[..., None]
        picture = np.where((down > ridge)[..., None], hill, picture)
    bar = (np.abs(down - 0.5) > 0.45) | (np.abs(right - 0.5) > 0.46)
    bar |= (np.abs(down - 0.5) < 0.02) | (np.abs(right - 0.5) < 0.016)
    return np.where(bar[..., None], weather(rng, plain(shape, (0.93, 0.90, 0.84))), picture)


def flow_poster(rng: np.random.Generator, size: int) -> Picture:
    """A poster that names the method, over a ball and its trace."""
    picture = plain((size, round(0.72 * size)), CREAM)
    rectangle(picture, 0.05, 0.07, 0.63, 0.93, PETROL)
    for k in range(6):
        fade = k / 5.0
        colour = tuple(fade * np.array(MUSTARD) + (1.0 - fade) * np.array(PETROL))
        disc(picture, 0.42 - 0.16 * math.sin(0.5 * k), 0.2 + 0.11 * k, 0.07 + 0.012 * k, colour)
    text(picture, "SCENE", 0.715, 0.5, 0.075, CORAL)
    text(picture, "FLOW", 0.84, 0.5, 0.10, NAVY)
    rectangle(picture, 0.92, 0.2, 0.935, 0.8, NAVY)
    return framed(rng, picture)


def sunset_poster(rng: np.random.Generator, size: int) -> Picture:
    """A poster of a setting sun over striped water."""
    picture = plain((size, round(0.72 * size)), NAVY)
    for k, colour in enumerate(((0.30, 0.22, 0.42), (0.62, 0.28, 0.42), CORAL, (0.95, 0.56, 0.30))):
        rectangle(picture, 0.14 * k + 0.02, 0.0, 0.62, 1.0, colour)
    disc(picture, 0.48, 0.5, 0.19, MUSTARD)
    rectangle(picture, 0.62, 0.0, 1.0, 1.0, PETROL)
    for k in range(6):
        rectangle(picture, 0.65 + 0.045 * k, 0.2 + 0.04 * k, 0.665 + 0.045 * k, 0.8 - 0.04 * k, MUSTARD)
    text(picture, "2021", 0.1, 0.5, 0.07, CREAM)
    return framed(rng, picture)


def framed(rng: np.random.Generator, picture: Picture) -> Picture:
    """Put a dark wooden frame around a picture."""
    down, right = grid_of(picture.shape[:2])
    edge = (np.abs(down - 0.5) > 0.472) | (np.abs(right - 0.5) > 0.461)
    return weather(rng, np.where(edge[..., None], (0.23, 0.14, 0.09), picture), 0.7)


def letter_blocks(rng: np.random.Generator, size: int, letters: str = "4DSCENEFLOWS") -> Picture:
    """A tower of toy blocks, a letter on each; seldom the same twice, or structure from motion confuses them."""
    n = len(letters)
    picture = plain((n * (size // 8), size // 8), CREAM)
    for k, letter in enumerate(letters):
        colour = (CORAL, PETROL, MUSTARD, PINE, NAVY)[k % 5]
        rectangle(picture, k / n, 0.0, (k + 1) / n, 1.0, colour)
        rectangle(picture, (k + 0.12) / n, 0.12, (k + 0.88) / n, 0.88, CREAM)
        text(picture, letter, (k + 0.5) / n, 0.5, 0.5 / n, colour)
        rectangle(picture, k / n, 0.0, (k + 0.03) / n, 1.0, (0.2, 0.15, 0.1))
    return weather(rng, picture, 1.5)


def crate(rng: np.random.Generator, size: int) -> Picture:
    """One side of a crate: boards, a frame of boards with nails, a stencilled word."""
    picture = planks(rng, size, 6, (0.72, 0.54, 0.33)).transpose(1, 0, 2).copy()
    wood = planks(rng, size, 8, (0.62, 0.43, 0.25))
    down, right = (np.abs(axis - 0.5) for axis in grid_of((size, size)))
    frame = np.maximum(down, right) > 0.38
    picture = np.where(frame[..., None], wood, picture)
    picture[(np.abs(np.maximum(down, right) - 0.38) < 0.008) | (np.maximum(down, right) > 0.49)] = 0.15
    picture = picture.astype(np.float32)
    for row in (0.06, 0.94):
        for column in (0.06, 0.35, 0.65, 0.94):
            disc(picture, row, column, 0.014, (0.25, 0.25, 0.27))
    text(picture, "TOYS", 0.46, 0.5, 0.17, NAVY)
    rectangle(picture, 0.62, 0.24, 0.65, 0.76, CORAL)
    return weather(rng, picture, 1.5)


def jelly(rng: np.random.Generator, size: int) -> Picture:
    """Half of a ball's surface (longitude by latitude): a smiling face among dots, a striped cap."""
    shape = size, size
    down, right = grid_of(shape)
    shifted = right * 6.0 + 0.5 * ((down * 6.0).astype(int) % 2)
    dots = np.hypot((down * 6.0) % 1.0 - 0.5, shifted % 1.0 - 0.5) < 0.3
    picture = np.where(dots[..., None], (0.98, 0.70, 0.60), CORAL)
    stripes = np.where((right * 6.0).astype(int)[..., None] % 2 == 0, CREAM, MUSTARD)
    picture = np.where((down < 0.25)[..., None], stripes, picture)
    picture[(down > 0.235) & (down < 0.27)] = PETROL
    skin = (0.99, 0.86, 0.72)
    disc(picture, 0.52, 0.5, 0.215, skin, 0.85)
    for side in (-1.0, 1.0):
        disc(picture, 0.47, 0.5 + 0.085 * side, 0.055, (1.0, 1.0, 1.0), 1.2)
        disc(picture, 0.475, 0.5 + 0.075 * side, 0.03, (0.10, 0.09, 0.13), 1.2)
        disc(picture, 0.56, 0.5 + 0.15 * side, 0.035, (0.96, 0.60, 0.52), 0.7)
    disc(picture, 0.57, 0.5, 0.10, (0.55, 0.16, 0.16), 0.75)
    disc(picture, 0.54, 0.5, 0.10, skin, 0.6)
    return weather(rng, picture)


def tram(rng: np.random.Generator, size: int) -> Picture:
    """The side of a toy tram: roof line, windows with passengers, its name, wheels."""
    body, glass, dark = (0.82, 0.26, 0.22), (0.45, 0.60, 0.66), (0.20, 0.18, 0.19)
    picture = plain((size // 2, size), body)
    rectangle(picture, 0.0, 0.0, 0.12, 1.0, CREAM)
    rectangle(picture, 0.12, 0.0, 0.15, 1.0, PETROL)
    for k in range(4):
        left = 0.05 + 0.235 * k
        rectangle(picture, 0.20, left, 0.52, left + 0.195, CREAM)
        rectangle(picture, 0.23, left + 0.012, 0.49, left + 0.183, glass)
        disc(picture, 0.38, left + 0.098, 0.09, ((0.93, 0.74, 0.58), (0.62, 0.42, 0.30))[k % 2])
        disc(picture, 0.51, left + 0.098, 0.11, (MUSTARD, TEAL, PINE, MUSTARD)[k], 0.6)
        rectangle(picture, 0.49, left, 0.52, left + 0.195, CREAM)
    rectangle(picture, 0.55, 0.0, 0.79, 1.0, (0.95, 0.80, 0.52))
    text(picture, "FLOW EXPRESS", 0.67, 0.5, 0.15, NAVY)
    rectangle(picture, 0.88, 0.0, 1.0, 1.0, dark)
    for right in (0.16, 0.32, 0.68, 0.84):
        disc(picture, 0.9, right, 0.10, (0.38, 0.36, 0.36))
        disc(picture, 0.9, right, 0.045, MUSTARD)
    return weather(rng, picture)


def flag(rng: np.random.Generator, size: int) -> Picture:
    """A flag: checker at the pole, stripes and letters."""
    shape = round(0.6 * size), size
    down, right = grid_of(shape)
    picture = np.where(((down * 3.0).astype(int) % 2 == 0)[..., None], MUSTARD, CREAM)
    check = ((down * 4.0).astype(int) + (right * 20.0 / 3.0).astype(int)) % 2 == 0
    picture = np.where((right > 0.7)[..., None], np.where(check[..., None], PETROL, CREAM), picture)
    text(picture, "NSFF", 0.5, 0.345, 0.36, NAVY)
    picture[(down < 0.05) | (down > 0.95)] = CORAL
    return weather(rng, picture)


def beach_ball(rng: np.random.Generator, size: int) -> Picture:
    """Half of a beach ball: wedges of six colours, a white cap."""
    down, right = grid_of((size, size))
    wedges = np.array([CORAL, CREAM, PETROL, CREAM, MUSTARD, CREAM])[(right * 6.0).astype(int)]
    wedges[np.abs((right * 6.0) % 1.0 - 0.5) > 0.47] = 0.25
    wedges[np.abs(down - 0.5) > 0.42] = CREAM
    return weather(rng, wedges, 1.5)
