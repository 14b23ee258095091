"""Query a server with the public client of the Open Inference Protocol: pip install 'tritonclient[http]'.

Start one first: anywidth serve RUN. Then: python client.py --model digits --budget 'latency<=5ms' images.npy
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import tritonclient.http as triton


def main(argv: list[str] | None = None) -> None:
    """Send images and print the answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="?", help="an array (images, channels, height, width); else noise")
    parser.add_argument("--address", default="127.0.0.1:8000")
    parser.add_argument("--model", default="digits")
    parser.add_argument("--token", help="if the server wants one")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--width", type=float, help="run this width; otherwise the server chooses")
    choice.add_argument("--budget", help="the widest with such as latency<=5ms or macs<=1e6, or narrower under load")
    arguments = parser.parse_args(argv)

    headers = {"Authorization": f"Bearer {arguments.token}"} if arguments.token else {}
    with triton.InferenceServerClient(arguments.address) as client:
        (described,) = client.get_model_metadata(arguments.model, headers=headers)["inputs"]
        shape = [2 if size == -1 else size for size in described["shape"]]
        noise = np.random.default_rng(0).normal(size=shape)
        images = (np.load(arguments.images) if arguments.images else noise).astype(np.float32)

        tensor = triton.InferInput(described["name"], list(images.shape), "FP32")
        tensor.set_data_from_numpy(images)
        asked = {"width": arguments.width, "budget": arguments.budget}
        parameters = {name: value for name, value in asked.items() if value is not None}
        result = client.infer(arguments.model, [tensor], headers=headers, parameters=parameters)

    response = result.get_response()
    cost, scores = response["parameters"], np.asarray(result.as_numpy(response["outputs"][0]["name"]))
    print(f"width {cost['width']:g}, {cost['macs']:,} MACs, {cost['compute_ms']:.2f} ms")
    print("classes:", scores.argmax(1).tolist())


if __name__ == "__main__":
    main()
