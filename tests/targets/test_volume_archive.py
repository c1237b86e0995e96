"""Archives of volumes: sound ones pass, and every known attack is refused before anything is
unpacked.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import shutil
import subprocess
import tarfile
import tracemalloc
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.errors import PreflightError
from reconciler.targets.volume_archive import ArchiveReport, Limits, inspect, leads_out
from reconciler.targets.volume_source import ArchiveError, Hashed, opened, unpacked

if TYPE_CHECKING:
    from collections.abc import Callable


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def folder(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.DIRTYPE)


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.SYMTYPE, linkname=target)


def hard(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.LNKTYPE, linkname=target)


def tar(*members: tuple[tarfile.TarInfo, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def judge(data: bytes, *, own: bool = False, **limits: int) -> ArchiveReport:
    return inspect(io.BytesIO(data), Limits(**limits), own=own)


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda data: data,
    "gzip": gzip.compress,
    "zstd": zstd,
}
SOUND = tar(
    folder("./"),
    folder("./data/"),
    member("./data/a.txt", b"hello" * 1000),
    hard("./data/b.txt", "./data/a.txt"),
    link("./data/c.txt", "a.txt"),
    link("./top", "data/a.txt"),
    member("./data/empty"),
    member("./" + "long" * 60 + "/ünïcode-✓", b"x"),
)


@pytest.mark.parametrize("packer", PACKERS)
def test_a_sound_archive_passes_and_is_described(packer: str) -> None:
    data = PACKERS[packer](SOUND)
    report = judge(data)
    assert report.compression == packer
    assert report.members == 8
    assert report.size == len(data)
    assert report.unpacked == len(SOUND)
    assert {"data", "top"} < set(report.roots)


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_of_tar_is_understood(kind: int) -> None:
    members = [folder("a"), member("a/" + "n" * 90, b"1"), link("a/l", "n")]
    if kind != tarfile.USTAR_FORMAT:
        members += [member("b" * 300, b"2"), link("c", "d" * 300)]
    assert judge(tar(*members, kind=kind)).members == len(members)


@pytest.mark.parametrize("flags", [[], ["--format=posix"], ["--format=ustar"], ["-z"]])
def test_what_the_tar_program_makes_of_a_real_folder_passes(
    tmp_path: Path, flags: list[str]
) -> None:
    base = tmp_path / "base"
    (base / "sub").mkdir(parents=True)
    (base / "sub" / "file").write_bytes(os.urandom(100_000))
    os.link(base / "sub" / "file", base / "hard")
    (base / "soft").symlink_to("sub/file")
    subprocess.run(["tar", *flags, "-cf", "../a.tar", "."], cwd=base, check=True)
    with opened(tmp_path / "a.tar") as file:
        assert inspect(file, Limits()).members == 5


def test_sparse_files_of_the_newer_form_pass_and_of_the_older_are_explained(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.seek(5_000_000)
        file.write(b"end")
    for form in ("posix", "gnu"):
        argv = ["tar", "-S", f"--format={form}", "-cf", f"{form}.tar", "sparse"]
        subprocess.run(argv, cwd=tmp_path, check=True)
    report = judge((tmp_path / "posix.tar").read_bytes())
    assert report.roots == ("sparse",)
    with pytest.raises(ArchiveError, match="unpacks to more than"):
        judge((tmp_path / "posix.tar").read_bytes(), unpacked=1_000_000)
    with pytest.raises(ArchiveError, match="--format=posix"):
        judge((tmp_path / "gnu.tar").read_bytes())


ATTACKS: dict[str, tuple[list[tuple[tarfile.TarInfo, bytes]], str]] = {
    "absolute path": ([member("/etc/passwd", b"x")], "absolute path"),
    "dots": ([member("../outside", b"x")], r"'\.\.'"),
    "dots in the middle": ([member("a/../../outside", b"x")], r"'\.\.'"),
    "dots as a folder": ([folder("..")], r"'\.\.'"),
    "dots in a long name": ([member("x" * 200 + "/../../../y", b"x")], r"'\.\.'"),
    "link to an absolute path": ([link("a", "/etc")], "leads out"),
    "link out": ([link("a/b", "../../etc")], "leads out"),
    "link to the parent": ([link("a", "..")], "leads out"),
    "link out by a long way": ([link("a", "b/" * 60 + "../" * 61)], "leads out"),
    "hard link out": ([hard("a", "../etc/passwd")], r"'\.\.'"),
    "hard link to an absolute path": ([hard("a", "/etc/passwd")], "absolute"),
    "hard link to nothing": ([hard("a", "b")], "links to what it does not hold"),
    "hard link to itself": ([hard("a", "a")], "links to what it does not hold"),
    "hard link to a link": ([link("a", "b"), hard("c", "a")], "hard link to a symbolic"),
    "writing through a link": ([folder("d"), link("a", "d"), member("a/f", b"x")], "through"),
    "folder through a link": ([folder("d"), link("a", "d"), folder("a/f")], "through"),
    "hard link through a link": (
        [folder("d"), member("d/f"), link("a", "d"), hard("g", "a/f")],
        "through",
    ),
    "dotted names of a link": ([link("./a", "b"), member("a/.//./f", b"x")], "through"),
    "character device": ([member("a", type=tarfile.CHRTYPE)], "character device"),
    "block device": ([member("a", type=tarfile.BLKTYPE)], "block device"),
    "FIFO": ([member("a", type=tarfile.FIFOTYPE)], "FIFO"),
    "unknown type": ([member("a", type=b"V")], "unknown type"),
    "a file twice": ([member("a", b"1"), member("./a", b"2")], "twice"),
    "a link over a file": ([member("a", b"1"), link("a", "b")], "replaces"),
    "a file over a link": ([link("a", "b"), member("a", b"1")], "twice"),
    "a link over a folder": ([member("a/b", b"1"), link("a", "c")], "replaces"),
    "a folder over a link": ([link("a", "b"), folder("a")], "replaces"),
    "a file over a folder": ([folder("a"), member("a", b"1")], "twice"),
    "a file as a folder": ([member("a", b"1"), member("a/b", b"2")], "as a folder"),
    "a link in place of the root": ([link("./", "a")], "replaces"),
    "a file in place of the root": ([member(".", b"x")], "named like a folder"),
    "a hard link with content": (
        [member("a"), member("b", bytes(512), type=tarfile.LNKTYPE, linkname="a")],
        "hard link with content",
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_attacks_are_refused(name: str, kind: int) -> None:
    members, words = ATTACKS[name]
    with pytest.raises(ArchiveError, match=words):
        judge(tar(member("innocent", b"x"), *members, kind=kind))


def pax(records: dict[str, str], name: str = "innocent", kind: bytes = b"x") -> bytes:
    """A member whose extended header says something else than its own."""
    body = b""
    for key, value in records.items():
        text = f" {key}={value}\n".encode()
        length = len(text) + 1
        while len(str(length)) + len(text) != length:
            length = len(str(length)) + len(text)
        body += str(length).encode() + text
    head = tarfile.TarInfo("ext")
    head.type, head.size = kind, len(body)
    padded = body + bytes(-len(body) % 512)
    return (
        head.tobuf(tarfile.USTAR_FORMAT)
        + padded
        + tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT)
    )


END = bytes(1024)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (pax({"path": "../x"}), r"'\.\.'"),
        (pax({"path": "/x"}), "absolute"),
        (pax({"GNU.sparse.name": "../x"}), r"'\.\.'"),
        (pax({"path": "../x"}, kind=b"g"), "for all members"),
        (pax({"size": "5"}, kind=b"g"), "for all members"),
        (pax({"size": "-5"}), "no size"),
        (pax({"size": "9" * 30}), "no size"),
        (pax({"size": "99999999999"}), "cut off in a file"),
    ],
)
def test_extended_headers_are_judged_like_plain_ones(data: bytes, words: str) -> None:
    with pytest.raises(ArchiveError, match=words):
        judge(data + END)


def test_harmless_extended_headers_pass() -> None:
    assert judge(pax({"comment": "made by git"}, kind=b"g") + END).members == 1
    assert judge(pax({"SCHILY.xattr.user.a": "b", "mtime": "1.5"}) + END).members == 1


@pytest.mark.parametrize(
    "body", [b"garbage", b"5 a\n", b"999 path=x\n", b"-1 path=x\n", b"6 path\n"]
)
def test_extended_headers_that_cannot_be_read_are_damage(body: bytes) -> None:
    head = tarfile.TarInfo("ext")
    head.type, head.size = b"x", len(body)
    data = head.tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % 512)
    with pytest.raises(ArchiveError, match="extended header"):
        judge(data + tarfile.TarInfo("a").tobuf() + END)


def test_an_endless_extended_header_is_refused() -> None:
    head = tarfile.TarInfo("ext")
    head.type, head.size = b"x", 2**33
    with pytest.raises(ArchiveError, match="more than 1 MiB"):
        judge(head.tobuf(tarfile.GNU_FORMAT) + END)


def test_a_negative_size_is_refused() -> None:
    header = bytearray(tarfile.TarInfo("a").tobuf())
    header[124:136] = b"\xff" * 12
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(ArchiveError, match="negative"):
        judge(bytes(header) + END)


# damage


@pytest.mark.parametrize("packer", PACKERS)
def test_cut_off_anywhere_is_noticed(packer: str) -> None:
    data = PACKERS[packer](tar(member("a", os.urandom(5000)), member("b", b"x" * 100)))
    for length in [*range(0, len(data), 97), len(data) - 600]:
        if packer == "none" and length >= 512 + 5120 + 512 + 512 + 1024:
            continue  # only padding after the end mark is missing
        with pytest.raises(ArchiveError):
            judge(data[:length])


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end() -> None:
    data = bytearray(tar(member("a", b"x"), member("b", b"y")))
    data[1024 + 3] ^= 0xFF
    with pytest.raises(ArchiveError, match="damaged at byte 1024"):
        judge(bytes(data))


def test_a_missing_end_mark_is_noticed() -> None:
    data = tar(member("a", b"x"))[:1024]
    with pytest.raises(ArchiveError, match="cut off"):
        judge(data)
    with pytest.raises(ArchiveError, match="cut off at its end"):
        judge(data + bytes(512))
    with pytest.raises(ArchiveError, match="end mark is incomplete"):
        judge(data + bytes(512) + b"x" * 512)


def test_something_after_the_end_is_refused() -> None:
    with pytest.raises(ArchiveError, match="after its end"):
        judge(tar(member("a", b"x")) + tar(member("b", b"y")))


@pytest.mark.parametrize("packer", ["gzip", "zstd"])
def test_one_wrong_bit_in_the_compressed_stream_is_noticed(packer: str) -> None:
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    data = {"gzip": gzip.compress, "zstd": compressor.compress}[packer](
        tar(member("a", os.urandom(20_000)))
    )
    broken = bytearray(data)
    broken[len(data) // 2] ^= 0x10
    with pytest.raises(ArchiveError):
        judge(bytes(broken))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"hello world, this is no archive" * 50, "no tar"),
        (b"PK\x03\x04" + bytes(1000), "is zip"),
        (b"BZh9" + bytes(1000), "is bzip2"),
        (b"\xfd7zXZ\x00" + bytes(1000), "is xz"),
        (b"PGDMP" + bytes(1000), "pg_dump"),
        (gzip.compress(b"hello" * 1000), "no tar"),
        (gzip.compress(b""), "is empty"),
        (b"\x1f\x8b\x08" + bytes(100), "gzip stream"),
        (b"\x28\xb5\x2f\xfd" + b"\xff" * 100, "zstd stream"),
    ],
    ids=[
        "nothing",
        "text",
        "zip",
        "bzip2",
        "xz",
        "dump",
        "gzip-text",
        "gzip-nothing",
        "gzip",
        "zstd",
    ],
)
def test_what_is_no_archive_is_named(data: bytes, words: str) -> None:
    with pytest.raises(ArchiveError, match=words):
        judge(data)


# compression


def test_several_members_and_padding_are_read_as_one_stream() -> None:
    half = len(SOUND) // 2
    joined = gzip.compress(SOUND[:half]) + gzip.compress(SOUND[half:]) + bytes(1000)
    assert judge(joined).members == 8
    assert judge(zstd(SOUND[:half]) + zstd(SOUND[half:])).members == 8


def test_garbage_after_the_last_member_is_refused() -> None:
    with pytest.raises(ArchiveError):
        judge(gzip.compress(SOUND) + b"garbage")


def test_names_inside_gzip_headers_mean_nothing(tmp_path: Path) -> None:
    packed = zlib.compressobj(wbits=-15)
    body = packed.compress(SOUND) + packed.flush()
    head = b"\x1f\x8b\x08\x08" + bytes(6) + b"../../../etc/passwd\0"
    tail = zlib.crc32(SOUND).to_bytes(4, "little") + len(SOUND).to_bytes(4, "little")
    assert judge(head + body + tail).members == 8


# bombs


def test_an_archive_that_unpacks_to_too_much_is_refused() -> None:
    data = gzip.compress(tar(member("a", bytes(3_000_000))))
    with pytest.raises(ArchiveError, match="unpacks to more than 1000000 bytes"):
        judge(data, unpacked=1_000_000)
    with pytest.raises(ArchiveError, match="100 times its size"):
        judge(data, ratio=100, ratio_floor=1_000_000)
    assert judge(data, ratio=100, ratio_floor=1_000_000, own=True).members == 1


def test_too_many_members_are_refused() -> None:
    data = gzip.compress(tar(*[member(f"f{n}") for n in range(200)]))
    with pytest.raises(ArchiveError, match="more than 100 members"):
        judge(data, members=100)


@pytest.mark.parametrize("packer", PACKERS)
def test_memory_does_not_grow_with_the_content(packer: str) -> None:
    data = PACKERS[packer](tar(member("a", bytes(60_000_000))))
    tracemalloc.start()
    try:
        judge(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16_000_000


def test_a_huge_window_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=False)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = frame.compress(SOUND) + frame.flush()
    with pytest.raises(ArchiveError, match="zstd"):
        judge(data)


# our own backups


def test_what_was_in_a_volume_before_may_come_back() -> None:
    members = [
        link("python", "/usr/bin/python3"),
        member("queue", type=tarfile.FIFOTYPE),
        member("null", type=tarfile.CHRTYPE),
    ]
    assert judge(tar(*members), own=True).members == 3
    with pytest.raises(ArchiveError, match="through"):
        judge(tar(link("a", "/etc"), member("a/passwd", b"x")), own=True)


# the file


def test_only_a_regular_file_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "a.tar").write_bytes(SOUND)
    (tmp_path / "latest").symlink_to("a.tar")
    for name, words in (
        ("fifo", "no regular file"),
        ("gone", "No such file"),
        (".", "no regular file"),
    ):
        with pytest.raises(PreflightError, match=words), opened(tmp_path / name):
            pass
    with opened(tmp_path / "latest") as file:
        assert inspect(file, Limits()).members == 8


# properties

NAMES = st.text("ab./", max_size=6) | st.sampled_from(["..", "../a", "/a", "a/../b", "a/b/c"])
MEMBERS = st.lists(
    st.tuples(
        st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE]),
        NAMES,
        NAMES,
    ),
    max_size=8,
)


@given(MEMBERS)
def test_whatever_passes_stays_inside_the_folder(members: list[tuple[bytes, str, str]]) -> None:
    """The real unpacker, without its own filters, writes nothing outside for any archive that
    passes.
    """
    data = tar(
        *[
            member(name, b"x" if kind == tarfile.REGTYPE else b"", type=kind, linkname=target)
            for kind, name, target in members
        ]
    )
    try:
        judge(data)
    except ArchiveError:
        return
    base = Path(os.environ["HYPOTHESIS_SCRATCH"])
    shutil.rmtree(base, ignore_errors=True)
    (base / "in").mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(base / "in", filter="fully_trusted")
    assert [path.name for path in base.iterdir()] == ["in"]
    for path in (base / "in").rglob("*"):
        assert path.is_symlink() or path.resolve().is_relative_to((base / "in").resolve())


@pytest.fixture(autouse=True, scope="module")
def _scratch(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["HYPOTHESIS_SCRATCH"] = str(tmp_path_factory.mktemp("unpacked") / "base")


@given(st.binary(max_size=3000))
def test_random_bytes_are_refused_without_an_accident(data: bytes) -> None:
    for packed in (data, gzip.compress(data), zstd(data)):
        with pytest.raises(ArchiveError):
            judge(packed)


@given(st.data())
def test_a_changed_byte_is_judged_without_an_accident(data: st.DataObject) -> None:
    broken = bytearray(SOUND)
    for _ in range(data.draw(st.integers(1, 3))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ArchiveError):
        assert judge(bytes(broken)).members >= 0


@given(st.text(min_size=1, max_size=200).filter(lambda name: "\0" not in name))
def test_names_are_shown_on_one_printable_line(name: str) -> None:
    with pytest.raises(ArchiveError) as caught:
        judge(tar(member("/" + name, b"x")))
    assert str(caught.value).isprintable()


@given(st.binary(max_size=5000), st.sampled_from(sorted(PACKERS)), st.integers(1, 700))
def test_unpacking_gives_back_what_was_packed(data: bytes, packer: str, step: int) -> None:
    if packer == "none":
        data = b"plain" + data
    source = Hashed(io.BytesIO(PACKERS[packer](data)))
    found, content = unpacked(source)
    assert found == packer
    assert b"".join(iter(lambda: content.read(step), b"")) == data
    assert len(source.hexdigest()) == 64


@pytest.mark.parametrize(
    ("path", "target", "out"),
    [
        ("a", "b", False),
        ("a/b/c", "../../d", False),
        ("a/b/c", "../../../d", True),
        ("a", "/", True),
        ("a", ".", False),
        ("a", "..", True),
        ("a/b", "..", False),
        ("a", "b/../../c", True),
    ],
)
def test_where_links_lead(path: str, target: str, out: object) -> None:
    assert leads_out(path, target) is out
