"""Draw with a champion, and encode an image of your own with another: python docs/example.py mnist mlruns mine.png"""

import sys
from pathlib import Path

import torch
from PIL import Image

from study.api import registered
from study.data import to_float, to_pixels
from study.data.own import as_tensor, read_images
from study.plots import grid

data, store, picture = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
autoencoder = registered(f"{data}-autoencoder", store).load()  # a torch module with its parts
drawing = registered(f"{data}-latent-gan", store)
with torch.no_grad():
    noise = torch.randn(15, drawing.config()["settings"]["noise_dim"])
    drawn = drawing.load()(noise)  # [15, C, S, S] in [0, 1]
    side, colour = drawn.shape[-1], drawn.shape[1] == 3
    mine = to_float(as_tensor(read_images([picture], side, colour)[0], side, colour))  # [1, C, S, S]
    latents = autoencoder.encoder(mine)  # [1, latent_dim]
    again = autoencoder.decoder(latents)
Image.fromarray(grid(to_pixels(torch.cat([mine, again, drawn])), columns=17)).save("drawn.png")
print("drawn.png: your image, its reconstruction, 15 new ones; its latents:", latents.squeeze(0).tolist())
