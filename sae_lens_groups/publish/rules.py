"""What must not be published: secrets, paths, and the names of this machine and its user."""

import contextlib
import getpass
import html
import json
import os
import re
import socket
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import get_token

from sae_lens_groups.files.places import roots

DATA = "data"
"""JSON and CSV, in which a value stands alone."""
PROGRAM = "program"
"""Somebody else's program, or a style sheet."""
CARD = "card"
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
class Rule:
    """A kind of private text. No pattern repeats a repetition: their time grows with the text."""

    kind: str
    pattern: re.Pattern[str]
    """Its group `value`, if it has one, is the private part."""
    anchors: Collection[str] = ()
    """One of these is in every match, so that most texts need no search; lower case where the
    pattern ignores it."""
    is_secret: bool = False
    only_in: Collection[str] | None = None
    """Kinds of texts that it is for; None: all."""
    not_in: Collection[str] = ()
    """Kinds of texts that may look like it and are not, or in which people mean to say it."""

    def is_for(self, kind: str) -> bool:
        """Whether it is to be looked for in texts of a kind."""
        return kind not in self.not_in and (self.only_in is None or kind in self.only_in)

    def matches(self, text: str) -> Iterator[tuple[int, int]]:
        """Where the private parts begin and end."""
        searched = text.lower() if self.pattern.flags & re.IGNORECASE else text
        if self.anchors and not any(anchor in searched for anchor in self.anchors):
            return
        group = "value" if "value" in self.pattern.groupindex else 0
        for match in self.pattern.finditer(text):
            yield match.span(group)


def _secret(kind: str, pattern: str, *anchors: str, not_in: Collection[str] = ()) -> Rule:
    return Rule(kind, re.compile(pattern), anchors, is_secret=True, not_in=not_in)


SECRETS = (
    _secret(
        "a Hugging Face token",
        r"(?<![A-Za-z0-9])(?:hf|api_org)_[A-Za-z0-9]{20,}",
        *("hf_", "api_org_"),
    ),
    _secret("an OpenAI or Anthropic key", r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{20,}", "sk-"),
    _secret(
        "a GitHub token",
        r"(?<![A-Za-z0-9])(?:gh[opsur]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})",
        *("gho_", "ghp_", "ghs_", "ghu_", "ghr_", "github_pat_"),
    ),
    _secret("a GitLab token", r"(?<![A-Za-z0-9])glpat-[A-Za-z0-9_-]{20,}", "glpat-"),
    _secret(
        "an AWS key",
        r"(?<![A-Za-z0-9])(?:AKIA|ASIA|AGPA|AIDA|AROA|ANPA)[A-Z0-9]{16}(?![A-Za-z0-9])",
        *("AKIA", "ASIA", "AGPA", "AIDA", "AROA", "ANPA"),
    ),
    _secret("a Slack token", r"(?<![A-Za-z0-9])xox[abeoprs]-[A-Za-z0-9-]{10,}", "xox"),
    _secret(
        "a Google key",
        r"(?<![A-Za-z0-9])(?:AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,})",
        *("AIza", "ya29."),
    ),
    _secret("a Stripe key", r"(?<![A-Za-z0-9])[rs]k_live_[A-Za-z0-9]{16,}", "k_live_"),
    _secret("a PyPI token", r"(?<![A-Za-z0-9])pypi-[A-Za-z0-9_-]{40,}", "pypi-"),
    _secret("a JSON web token", r"(?<![A-Za-z0-9])eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}", "eyJ"),
    _secret("a private key", r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY", "PRIVATE KEY"),
    _secret("a W&B key", r"(?<![A-Za-z0-9])wandb_v\d_[A-Za-z0-9_]{20,}", "wandb_v"),
    _secret(
        "a W&B key",
        r"(?i:wandb)[^\n]{0,40}?(?<![0-9a-f])(?P<value>[0-9a-f]{40})(?![0-9a-f])",
        *("wandb", "WANDB", "Wandb"),
    ),
    _secret(
        "a password in an address",
        r"(?<=://)(?P<value>[^\s/:@\"'<>]{0,64}:[^\s/@\"'<>]{1,128})@",
        "://",
    ),
    _secret(
        "what is named as a key or token",
        r"(?i:(?:api|access|auth|secret|private|bearer|hf|hub|wandb|client)[_-]?"
        r"(?:key|token|secret))[\"']?\s{0,3}[:=]\s{0,3}[\"']?(?P<value>[\w/+.=-]{16,})",
        not_in=[PROGRAM],
    ),
    _secret(
        "what is named as a token",
        r"(?i:(?<![\w-])(?:token|secret))[\"']?\s{0,3}[:=]\s{0,3}[\"']?"
        r"(?P<value>(?=[A-Za-z_/+.=-]{0,99}\d)[\w/+.=-]{16,})",
        not_in=[PROGRAM],
    ),
    _secret(
        "what is named as a password",
        r"(?i:pass(?:word|wd|phrase))[\"']?\s{0,3}[:=]\s{0,3}[\"']?"
        r"(?P<value>(?=[^\d\s\"'<>]{0,99}\d)[^\s\"'<>]{8,})",
        not_in=[PROGRAM],
    ),
)
_STOPS = r"\s\"'`<>|*?;,&()\[\]{}"
PATHS = (
    Rule(  # a whole value, whatever the folder at the top is called
        "the path",
        re.compile(rf"(?m)(?:(?<=: )|(?<=^)|(?<=,)|(?<=\"))/+[\w.~-]+/+[^/{_STOPS}][^{_STOPS}]*"),
        ("/",),
        only_in=[DATA],
    ),
    Rule("the path", re.compile(rf"(?<![A-Za-z])(?i:file):/+[\w~%][^{_STOPS}]*"), (":/",)),
    Rule(
        "the path",
        re.compile(
            r"(?<![A-Za-z0-9])[A-Za-z]:(?:\\{1,2}\w[\w.$-]+|/[\w.$ -]+/)" + rf"[^{_STOPS}]*"
        ),
        (":\\", ":/"),
    ),
    Rule(
        "the path",
        re.compile(
            r"(?<![\\\w:])\\{2,4}(?!u[0-9A-Fa-f]{4})[A-Za-z0-9][\w.-]+\\{1,2}[A-Za-z0-9$][\w$.-]+"
        ),
        ("\\\\",),
    ),
    Rule(
        "the path",
        re.compile(rf"(?<![\w/~])~[\w.-]*/[\w.][^{_STOPS}]*"),
        ("~",),
        not_in=[PROGRAM, CARD],
    ),
    Rule(
        "the e-mail address",
        re.compile(r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@[A-Za-z0-9-]{1,63}\.[A-Za-z][\w.-]+"),
        ("@",),
        not_in=[PROGRAM, CARD],
    ),
)


def absolute_paths() -> Rule:
    """Paths from the top of a file system, but not the path of a URL."""
    top = roots()
    either = "|".join(map(re.escape, sorted(top)))
    return Rule(
        "the path",
        re.compile(
            rf"(?<![\w./~-])(?!(?<=:)//)/+(?:{either})/+[^/{_STOPS}\\][^{_STOPS}]*",
        ),
        [f"/{name}/" for name in top],
    )


def folders_rule(folders: Iterable[Path]) -> Rule | None:
    """Folders of this machine, in texts whose separators are all `/`."""
    names = {
        re.sub(r"[/\\]+", "/", str(path)).rstrip("/")
        for folder in folders
        for path in _spellings(folder)
        if len(path.parts) > 2  # a folder at the top belongs to everybody
    }
    if not names:
        return None
    return Rule("the folder", re.compile(_either(names), re.IGNORECASE), _lowered(names))


def _either(texts: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(texts, key=len, reverse=True)))


def _lowered(texts: Iterable[str]) -> list[str]:
    return [text.lower() for text in texts]


def _spellings(folder: Path) -> set[Path]:
    try:
        return {folder.absolute(), folder.resolve()}
    except OSError:
        return {folder}


def home_folder() -> list[Path]:
    try:
        return [Path.home()]
    except RuntimeError:  # an account may have none
        return []


def current_folder() -> list[Path]:
    try:
        return [Path.cwd()]
    except OSError:  # it was removed
        return []


def names_rule(public: str) -> Rule | None:
    """The user's and the machine's names, but those that everybody has or that are public."""
    names = {os.environ.get(variable, "") for variable in _NAME_VARIABLES}
    names |= {folder.name for folder in home_folder()}
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
        return None
    return Rule("the user or host name", _as_words(kept), _lowered(kept), not_in=[PROGRAM])


def _as_words(names: Iterable[str]) -> re.Pattern[str]:
    return re.compile(rf"(?<![^\W_])(?:{_either(names)})(?![^\W_])", re.IGNORECASE)


def known_secrets() -> Rule | None:
    """The secrets that this machine holds, however they are escaped."""
    values = {value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)} | {
        get_token() or ""
    }
    values = {value.strip() for value in values}
    escaped = {
        form
        for value in values
        if len(value) >= _SHORTEST_SECRET
        for form in (value, quote(value, safe=""), json.dumps(value)[1:-1], html.escape(value))
    }
    if not escaped:
        return None
    kind = "a token or key of this machine"
    return Rule(kind, re.compile(_either(escaped)), escaped, is_secret=True)
