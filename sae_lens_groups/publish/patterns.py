"""What must not be published: secrets, paths, and the names of this machine and its user."""

import contextlib
import getpass
import os
import re
import socket
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import get_token

from sae_lens_groups.files import roots

TEXT = ""
"""Anything else."""
DATA = "data"
"""JSON and CSV, in which a value stands alone."""
PROGRAM = "program"
"""Somebody else's program, or a style sheet."""
CARD_TEXT = "card"
"""What people write for the public."""

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
_SHORTEST_NAME = 3
_SHORTEST_SECRET = 12


@dataclass(frozen=True)
class Private:
    """A kind of private text. No pattern repeats a repetition: their time grows with the text."""

    kind: str
    anchors: Collection[str]
    """One of these is in every match, so that most texts need no search; lower case where the
    pattern ignores it."""
    pattern: re.Pattern[str]
    """Its group `value`, if it has one, is the private part."""
    not_in: Collection[str] = ()
    """Kinds of texts that may look like it and are not, or in which people mean to say it."""

    def matches(self, text: str, kind: str) -> Iterator[tuple[int, int]]:
        """Where the private parts of a text begin and end."""
        searched = text.lower() if self.pattern.flags & re.IGNORECASE else text
        if kind in self.not_in or not any(anchor in searched for anchor in self.anchors):
            return
        group = "value" if "value" in self.pattern.groupindex else 0
        for match in self.pattern.finditer(text):
            yield match.span(group)


# Kind, what every match has one of, pattern.
_TOKENS = (
    ("a Hugging Face token", "hf_ api_org_", r"(?:hf|api_org)_[A-Za-z0-9]{20,}"),
    ("an OpenAI or Anthropic key", "sk-", r"sk-[A-Za-z0-9_-]{20,}"),
    ("a GitHub token", "gho_ ghp_ ghs_ ghu_ ghr_", r"gh[opsur]_[A-Za-z0-9]{20,}"),
    ("a GitHub token", "github_pat_", r"github_pat_[A-Za-z0-9_]{20,}"),
    ("a GitLab token", "glpat-", r"glpat-[A-Za-z0-9_-]{20,}"),
    (
        "an AWS key",
        "AKIA ASIA AGPA AIDA AROA ANPA",
        r"(?:AKIA|ASIA|AGPA|AIDA|AROA|ANPA)[A-Z0-9]{16}(?![A-Za-z0-9])",
    ),
    ("a Slack token", "xox", r"xox[abeoprs]-[A-Za-z0-9-]{10,}"),
    ("a Google key", "AIza", r"AIza[A-Za-z0-9_-]{35}"),
    ("a Google key", "ya29.", r"ya29\.[A-Za-z0-9_-]{20,}"),
    ("a Stripe key", "k_live_", r"[rs]k_live_[A-Za-z0-9]{16,}"),
    ("a PyPI token", "pypi-", r"pypi-[A-Za-z0-9_-]{40,}"),
    ("a JSON web token", "eyJ", r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"),
    ("a W&B key", "wandb_v", r"wandb_v\d_[A-Za-z0-9_]{20,}"),
)
_OTHER_SECRETS = (
    ("a private key", "PRIVATE", r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY"),
    (
        "a W&B key",
        "wandb WANDB Wandb",
        r"(?i:wandb)[^\n]{0,40}?(?<![0-9a-f])(?P<value>[0-9a-f]{40})(?![0-9a-f])",
    ),
    (
        "a password in an address",
        "://",
        r"(?<=://)(?P<value>[^\s/:@\"'<>]{0,64}:[^\s/@\"'<>]{1,128})@",
    ),
)
# Kind, its name, what the name stands for.
_NAMED = (
    (
        "what is named as a key or token",
        r"(?:api|access|auth|secret|private|bearer|hf|hub|wandb|client)[_-]?(?:key|token|secret)",
        r"[\w/+.=-]{16,}",
    ),
    (
        "what is named as a token",
        r"(?<![\w-])(?:token|secret)",
        r"(?=[A-Za-z_/+.=-]{0,99}\d)[\w/+.=-]{16,}",
    ),
    (
        "what is named as a password",
        r"pass(?:word|wd|phrase)",
        r"(?=[^\d\s\"'<>]{0,99}\d)[^\s\"'<>]{8,}",
    ),
)
SECRETS = [
    *(
        Private(kind, anchors.split(), re.compile(rf"(?<![A-Za-z0-9]){pattern}"))
        for kind, anchors, pattern in _TOKENS
    ),
    *(
        Private(kind, anchors.split(), re.compile(pattern))
        for kind, anchors, pattern in _OTHER_SECRETS
    ),
    *(
        Private(
            kind,
            ("=", ":"),
            re.compile(rf"(?i:{name})[\"']?\s{{0,3}}[:=]\s{{0,3}}[\"']?(?P<value>{value})"),
            not_in=[PROGRAM],
        )
        for kind, name, value in _NAMED
    ),
]
_STOPS = r"\s\"'`<>|*?;,&()\[\]{}"
_PATHS = (
    (":/", rf"(?<![A-Za-z])(?i:file):/+[\w~%][^{_STOPS}]*"),
    (":/", rf"(?<![A-Za-z0-9])[A-Za-z]:/[\w.$ -]+/[^{_STOPS}]*"),
    (":\\", rf"(?<![A-Za-z0-9])[A-Za-z]:\\{{1,2}}\w[\w.$-]+[^{_STOPS}]*"),
)
# Of a Windows share. A program's regular expressions look like one.
_SHARE = r"(?<![\\\w:])\\{2,4}(?!u[0-9A-Fa-f]{4})[A-Za-z0-9][\w.-]+\\{1,2}[A-Za-z0-9$][\w$.-]+"
PATHS = [
    Private(  # a whole value, whatever the folder at the top is called
        "the path",
        ("/",),
        re.compile(
            rf"(?m)(?:(?<=: )|(?<=^)|(?<=,)|(?<=\"))/+[\w.~-]+/+[^/{_STOPS}][^{_STOPS}]*",
        ),
        not_in=[TEXT, PROGRAM, CARD_TEXT],
    ),
    *(Private("the path", (anchor,), re.compile(pattern)) for anchor, pattern in _PATHS),
    Private("the path", ("\\\\",), re.compile(_SHARE), not_in=[PROGRAM]),
    Private(
        "the path",
        ("~",),
        re.compile(rf"(?<![\w/~])~[\w.-]*/[\w.][^{_STOPS}]*"),
        not_in=[PROGRAM, CARD_TEXT],
    ),
    Private(
        "the e-mail address",
        ("@",),
        re.compile(r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@[A-Za-z0-9-]{1,63}\.[A-Za-z][\w.-]+"),
        not_in=[PROGRAM, CARD_TEXT],
    ),
]


def absolute_paths() -> Private:
    """Paths from the top of a file system, but not the path of a URL."""
    top = sorted(roots())
    either = "|".join(map(re.escape, top))
    pattern = rf"(?<![\w./~-])(?!(?<=:)//)/+(?:{either})/+[^/{_STOPS}\\][^{_STOPS}]*"
    return Private("the path", [f"/{name}/" for name in top], re.compile(pattern))


def these_folders(folders: Iterable[str | Path]) -> list[Private]:
    """These paths, this run's folder and the user's, in texts whose separators are all `/`."""
    paths = [*folders]
    with contextlib.suppress(RuntimeError):  # an account may have no home
        paths.append(Path.home())
    with contextlib.suppress(OSError):  # the current folder may be gone
        paths.append(Path.cwd())
    spellings = {spelling for path in paths for spelling in _spellings(path)}
    names = {re.sub(r"[/\\]+", "/", name).rstrip("/") for name in spellings}
    known = {name for name in names if name.count("/") > 1}  # one at the top is everybody's
    pattern = re.compile(_either(known), re.IGNORECASE)
    return [Private("the folder", [name.lower() for name in known], pattern)] if known else []


def _spellings(folder: str | Path) -> set[str]:
    if isinstance(folder, str):
        return {folder}
    try:
        return {str(folder.absolute()), str(folder.resolve())}
    except OSError:
        return {str(folder)}


def names_here(public: str) -> list[Private]:
    """The user's and the machine's names, but those that everybody has or that are public."""
    names = {os.environ.get(variable, "") for variable in _NAME_VARIABLES}
    with contextlib.suppress(RuntimeError):
        names.add(Path.home().name)
    with contextlib.suppress(OSError, KeyError, ImportError):  # an account may have no name
        names.add(getpass.getuser())
    host = socket.gethostname()
    names |= {host, host.partition(".")[0]}
    kept = {
        name
        for name in names
        if len(name) >= _SHORTEST_NAME
        and name.lower() not in _GENERIC_NAMES
        and not name.isdecimal()
        and not _as_words([name]).search(public)
    }
    if not kept:
        return []
    anchors = [name.lower() for name in kept]
    return [Private("the user or host name", anchors, _as_words(kept), not_in=[PROGRAM])]


def secrets_here() -> list[Private]:
    """The secrets that this machine holds."""
    values = {value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)}
    values = {value.strip() for value in (*values, get_token() or "")}
    known = [value for value in values if len(value) >= _SHORTEST_SECRET]
    pattern = re.compile(_either(known))
    return [Private("a token or key of this machine", known, pattern)] if known else []


def _either(texts: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(texts, key=len, reverse=True)))


def _as_words(texts: Iterable[str]) -> re.Pattern[str]:
    return re.compile(rf"(?<![^\W_])(?:{_either(texts)})(?![^\W_])", re.IGNORECASE)
