"""What must not be published: secrets, paths, and the names of this machine and its user."""

import contextlib
import getpass
import os
import re
import socket
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import get_token

from sae_lens_groups.files import roots

# Kinds of texts. In JSON and CSV a value stands alone; a card is what people write for the public; a
# program is somebody else's, or a style sheet.
TEXT, DATA, CARD_TEXT, PROGRAM = "text", "data", "card", "program"
_OURS = (TEXT, DATA, CARD_TEXT)
_EVERYWHERE = (*_OURS, PROGRAM)

_GENERIC_NAMES = frozenset(
    """
    admin administrator app azureuser build builder centos codespace colab container core data
    debian default desktop dev docker ec2-user fedora gitpod gpu group groups guest home host
    jenkins jovyan jupyter kaggle laptop layer layers localdomain localhost login main master
    mambauser model models nobody node none notebook null op opc page pi public python root runner
    sae saes sagemaker-user server service shared ssh staff system test tester text train trainer
    training ubuntu user username users vagrant vscode work worker workspace www www-data
    """.split()  # noqa: SIM905  # forty lines otherwise
)
_NAME_VARIABLES = ("USER", "LOGNAME", "USERNAME", "SUDO_USER")
_SECRET_VARIABLE = re.compile(
    r"(?i:TOKEN|KEY|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL)S?(?![A-Za-z])"
)
_SHORTEST_NAME, _SHORTEST_SECRET = 3, 12


class Private(NamedTuple):
    """A kind of private text. No pattern repeats a repetition: their time grows with the text."""

    kind: str
    pattern: re.Pattern[str]
    """Its group, if it has one, is the private part."""
    searched: Collection[str] = _EVERYWHERE
    """Kinds of texts. Elsewhere something else looks like it, or people mean to say it."""

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Where the private parts of a text begin and end."""
        return (match.span(match.lastindex or 0) for match in self.pattern.finditer(text))

    def replaced(self, text: str, replacement: Callable[[str], str]) -> str:
        """A text with something else in place of its private parts."""
        return self.pattern.sub(
            lambda match: match[0].replace(
                secret := match[match.lastindex or 0], replacement(secret)
            ),
            text,
        )


# What begins a word; what is in it, wherever it stands; what is named as one.
_TOKENS = {
    "a Hugging Face token": r"(?:hf|api_org)_[A-Za-z0-9]{20,}",
    "an OpenAI or Anthropic key": r"sk-[A-Za-z0-9_-]{20,}",
    "a GitHub token": r"(?:gh[opsur]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})",
    "a GitLab token": r"glpat-[A-Za-z0-9_-]{20,}",
    "an AWS key": r"(?:AKIA|ASIA|AGPA|AIDA|AROA|ANPA)[A-Z0-9]{16}(?![A-Za-z0-9])",
    "a Slack token": r"xox[abeoprs]-[A-Za-z0-9-]{10,}",
    "a Google key": r"(?:AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,})",
    "a Stripe key": r"[rs]k_live_[A-Za-z0-9]{16,}",
    "a PyPI token": r"pypi-[A-Za-z0-9_-]{40,}",
    "a JSON web token": r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}",
    "a W&B key": r"wandb_v\d_[A-Za-z0-9_]{20,}",
}
_OTHER_SECRETS = {
    "a private key": r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY",
    "a W&B key": r"(?i:wandb)[^\n]{0,40}?(?<![0-9a-f])([0-9a-f]{40})(?![0-9a-f])",
    "a password in an address": r"(?<=://)[^\s/:@\"'<>]{0,64}:[^\s/@\"'<>]{1,128}(?=@)",
}
_NAMED = {
    "what is named as a key or token": (
        r"(?:api|access|auth|secret|private|bearer|hf|hub|wandb|client)[_-]?(?:key|token|secret)",
        r"[\w/+.=-]{16,}",
    ),
    "what is named as a token": (
        r"(?<![\w-])(?:token|secret)",
        r"(?=[A-Za-z_/+.=-]{0,99}\d)[\w/+.=-]{16,}",
    ),
    "what is named as a password": (
        r"pass(?:word|wd|phrase)",
        r"(?=[^\d\s\"'<>]{0,99}\d)[^\s\"'<>]{8,}",
    ),
}
SECRETS = [
    *(Private(kind, re.compile(rf"(?<![A-Za-z0-9]){of}")) for kind, of in _TOKENS.items()),
    *(Private(kind, re.compile(of)) for kind, of in _OTHER_SECRETS.items()),
    *(
        Private(kind, re.compile(rf"(?i:{name})[\"']?\s{{0,3}}[:=]\s{{0,3}}[\"']?({value})"), _OURS)
        for kind, (name, value) in _NAMED.items()
    ),
]
_END = r"\s\"'`<>|*?;,&()\[\]{}"  # of a path
_SEPARATOR = r"[/\\]{1,8}"  # as often as JSON in JSON doubles it
PATHS = [
    Private("the path", re.compile(rf"(?<![A-Za-z])(?i:file):/+[\w~%][^{_END}]*")),
    Private("the path", re.compile(rf"(?<![A-Za-z0-9])[A-Za-z]:/[\w.$ -]+/[^{_END}]*")),
    Private("the path", re.compile(rf"(?<![A-Za-z0-9])[A-Za-z]:\\{{1,2}}\w[\w.$-]+[^{_END}]*")),
    Private(  # a whole value, whatever the folder at the top is called
        "the path",
        re.compile(rf"(?m)(?:(?<=: )|(?<=^)|(?<=,)|(?<=\"))/+[\w.~-]+/+[^/{_END}][^{_END}]*"),
        (DATA,),
    ),
    Private(  # of a Windows share; a program's regular expressions look like one
        "the path",
        re.compile(
            r"(?<![\\\w:])\\{2,4}(?!u[0-9A-Fa-f]{4})[A-Za-z0-9][\w.-]+\\{1,2}[A-Za-z0-9$][\w$.-]+"
        ),
        _OURS,
    ),
    Private("the path", re.compile(rf"(?<![\w/~])~[\w.-]*/[\w.][^{_END}]*"), (TEXT, DATA)),
    Private(
        "the e-mail address",
        re.compile(r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@[A-Za-z0-9-]{1,63}\.[A-Za-z][\w.-]+"),
        (TEXT, DATA),
    ),
]


def absolute_paths() -> Private:
    """Paths from the top of a file system, but not the path of a URL."""
    pattern = rf"(?<![\w./~-])(?!(?<=:)//)/+(?:{_either(roots())})/+[^/{_END}\\][^{_END}]*"
    return Private("the path", re.compile(pattern))


def folders_here(paths: Iterable[str | Path]) -> list[Private]:
    """These paths, this run's folder and the user's, however their separators are written."""
    found = [*paths]
    with contextlib.suppress(RuntimeError):  # an account may have no home
        found.append(Path.home())
    with contextlib.suppress(OSError):  # the current folder may be gone
        found.append(Path.cwd())
    spellings = {path for path in found if isinstance(path, str)}
    real = [path for path in found if isinstance(path, Path)]
    spellings |= {str(spelling) for of in real for spelling in (of.absolute(), of.resolve())}
    split = [re.split(r"[/\\]+", spelling.rstrip("/\\")) for spelling in spellings]
    # One at the top is everybody's.
    known = [_SEPARATOR.join(map(re.escape, parts)) for parts in split if len(parts) > 2]
    either = "|".join(sorted(known, key=len, reverse=True))
    return [Private("the folder", re.compile(either, re.IGNORECASE))] if known else []


def names_here(public: str) -> list[Private]:
    """The user's and the machine's names, but those that everybody has or that are public."""
    host = socket.gethostname()
    found = {os.environ.get(variable, "") for variable in _NAME_VARIABLES}
    found |= {host, host.partition(".")[0]}
    with contextlib.suppress(RuntimeError):
        found.add(Path.home().name)
    with contextlib.suppress(OSError, KeyError, ImportError):  # an account may have no name
        found.add(getpass.getuser())
    kept = {
        name
        for name in found
        if len(name) >= _SHORTEST_NAME
        and name.lower() not in _GENERIC_NAMES
        and not name.isdecimal()
        and not _as_words([name]).search(public)
    }
    return [Private("the user or host name", _as_words(kept), _OURS)] if kept else []


def secrets_here() -> list[Private]:
    """The secrets that this machine holds."""
    values = [value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)]
    stripped = {value.strip() for value in (*values, get_token() or "")}
    known = [value for value in stripped if len(value) >= _SHORTEST_SECRET]
    kind = "a token or key of this machine"
    return [Private(kind, re.compile(_either(known)))] if known else []


def _either(texts: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(texts, key=len, reverse=True)))


def _as_words(texts: Iterable[str]) -> re.Pattern[str]:
    return re.compile(rf"(?<![^\W_])(?:{_either(texts)})(?![^\W_])", re.IGNORECASE)
