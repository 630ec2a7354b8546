"""Prints what OpenCV's equalisation does: the golden values in train/src/augment/equalise.rs.

    pip install opencv-python-headless numpy
    python equalise_golden.py
"""

import cv2
import numpy as np


def picture(side: int) -> np.ndarray:
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    return ((7 * x * x + 13 * y + x * y) % 97 + 60).astype(np.uint8)


def show(name: str, row: np.ndarray) -> None:
    print(f"    const {name}: [f32; {len(row)}] = [{', '.join(f'{v}.0' for v in row)}];")


clahe = cv2.createCLAHE(clipLimit=3.0, tileGridSize=(4, 4))
show("PLAIN", cv2.equalizeHist(picture(20))[5])
show("CLAHE_2", clahe.apply(picture(20))[2])
show("CLAHE_11", clahe.apply(picture(20))[11])
show("CLAHE_ODD", clahe.apply(picture(22))[20])
