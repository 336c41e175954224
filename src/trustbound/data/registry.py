"""The data sets that have a name: torch-free rows that the loader, the CLI and the README read."""

from __future__ import annotations

from dataclasses import dataclass

from trustbound.registry import Registry


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """One file of a published set and how to know that it is the right one.

    sha256      of the file as published: what a download must match.
    content     MD5 of the uncompressed bytes, as its authors publish it: what a local copy must match,
                because a file compressed anew has other bytes. None where only the structure is checked.
    """

    name: str
    splits: tuple[str, ...]
    role: str
    sha256: str
    content: str | None = None


@dataclass(frozen=True, kw_only=True)
class PublishedSet:
    """One named set: where it is published, what it holds and who reads it."""

    name: str
    target: str
    line: str
    shape: tuple[int, ...]
    class_names: tuple[str, ...]
    splits: tuple[str, ...] = ("train", "test")
    mirrors: tuple[str, ...] = ()
    files: tuple[PublishedFile, ...] = ()
    folders: tuple[str, ...] = ()
    task: str = "classification"

    def files_of(self, split: str) -> tuple[PublishedFile, ...]:
        """The files that one split needs."""
        return tuple(file for file in self.files if split in file.splits)


def _idx(split: str, role: str, sha256: str, content: str) -> PublishedFile:
    stem = {"train": "train", "test": "t10k"}[split]
    kind = {"pictures": "images-idx3", "labels": "labels-idx1"}[role]
    return PublishedFile(name=f"{stem}-{kind}-ubyte.gz", splits=(split,), role=role, sha256=sha256, content=content)


DATA = Registry(
    "a data set",
    PublishedSet(
        name="digits",
        target="trustbound.data.readers.digits:read_digits",
        line="scikit-learn's 8×8 handwritten digits, embedded, 1,797 real pictures",
        shape=(1, 8, 8),
        class_names=tuple("0123456789"),
    ),
    PublishedSet(
        name="diabetes",
        target="trustbound.data.readers.diabetes:read_diabetes",
        line="scikit-learn's diabetes study, embedded, 442 patients, 10 measurements, a number to predict",
        shape=(10,),
        class_names=(),
        task="regression",
    ),
    PublishedSet(
        name="shapes",
        target="trustbound.data.readers.shapes:read_shapes",
        line="discs, squares and triangles drawn on a textured ground, 32×32 colour, a class for each pixel, 400 + 100",
        shape=(3, 32, 32),
        class_names=("ground", "disc", "square", "triangle"),
        task="segmentation",
    ),
    PublishedSet(
        name="mnist",
        target="trustbound.data.readers.idx:read_idx_pair",
        line="MNIST handwritten digits, 28×28 grey, 60,000 + 10,000",
        shape=(1, 28, 28),
        class_names=tuple("0123456789"),
        mirrors=(
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
        folders=("mnist", "MNIST", "MNIST/raw", "."),
        files=(
            _idx(
                "train",
                "pictures",
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "6bbc9ace898e44ae57da46a324031adb",
            ),
            _idx(
                "train",
                "labels",
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "a25bea736e30d166cdddb491f175f624",
            ),
            _idx(
                "test",
                "pictures",
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "2646ac647ad5339dbf082846283269ea",
            ),
            _idx(
                "test",
                "labels",
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                "27ae3e4e09519cfbb04c329615203637",
            ),
        ),
    ),
    PublishedSet(
        name="fashion-mnist",
        target="trustbound.data.readers.idx:read_idx_pair",
        line="Fashion-MNIST articles of clothing, 28×28 grey, 60,000 + 10,000",
        shape=(1, 28, 28),
        class_names=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        mirrors=(
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        # Never the bare folder: MNIST's files have the same names.
        folders=("fashion-mnist", "fashion_mnist", "FashionMNIST", "FashionMNIST/raw"),
        files=(
            _idx(
                "train",
                "pictures",
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            ),
            _idx(
                "train",
                "labels",
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "9018921c3c673c538a1fc5bad174d6f9",
            ),
            _idx(
                "test",
                "pictures",
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "8181f5470baa50b63fa0f6fddb340f0a",
            ),
            _idx(
                "test",
                "labels",
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                "15d484375f8d13e6eb1aabb0c3f46965",
            ),
        ),
    ),
    PublishedSet(
        name="cifar10",
        target="trustbound.data.readers.cifar:read_cifar10",
        line="CIFAR-10 colour photographs, 32×32, 50,000 + 10,000, the original python archive",
        shape=(3, 32, 32),
        class_names=(
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ),
        mirrors=("https://www.cs.toronto.edu/~kriz/",),
        folders=("cifar10", "cifar-10", "CIFAR10", "."),
        files=(
            PublishedFile(
                name="cifar-10-python.tar.gz",
                splits=("train", "test"),
                role="archive",
                sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            ),
        ),
    ),
)
