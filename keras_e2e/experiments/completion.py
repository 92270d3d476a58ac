"""The command `keras-e2e completion`: what a shell needs to complete the others."""

from collections.abc import Mapping

from absl import flags

from keras_e2e.experiments.command import Command

SCRIPT = """\
# Completes keras-e2e. In ~/.bashrc: eval "$(keras-e2e completion)"
_keras_e2e() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}"
  local flag="" words=""
  # To bash "=" is a word.
  if [ "$word" = "=" ]; then flag="$before" word=""
  elif [ "$before" = "=" ]; then flag="${{COMP_WORDS[COMP_CWORD-2]}}"; fi
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{commands} --help --version"
  elif [ -n "$flag" ]; then
    case "${{COMP_WORDS[1]}} $flag" in
{values}
    esac
  elif [ "${{word#-}}" != "$word" ]; then
    case "${{COMP_WORDS[1]}}" in
{flags}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
  case "${{COMPREPLY[0]}}" in *=) compopt -o nospace;; esac
}}
complete -o default -F _keras_e2e keras-e2e"""


def command(others: Mapping[str, Command]) -> Command:
    """The command that prints the script.

    Args:
        others: Dict from name to `Command`, those to complete.
    """

    def run(values: flags.FlagValues, words: list[str]) -> int:
        print(script(others))
        return 0

    return Command(
        "completion",
        "",
        'Prints what completes the command in bash: eval "$(keras-e2e completion)".',
        "Prints a script that completes commands, flags and values in bash. The line\n"
        '    eval "$(keras-e2e completion)"\nin ~/.bashrc reads it.',
        flags.FlagValues,
        run,
    )


def script(commands: Mapping[str, Command]) -> str:
    """The script, for bash.

    Args:
        commands: Dict from name to `Command`.
    """
    names, values = [], []
    for name, of_name in commands.items():
        known = of_name.flags()
        words = [f"--{flag}{'' if known[flag].boolean else '='}" for flag in sorted(known)]
        names.append(f'      {name}) words="{" ".join(words)} --help";;')
        for flag in sorted(known):
            choices = getattr(known[flag].parser, "enum_values", None)
            if choices:
                values.append(f'      "{name} --{flag}") words="{" ".join(choices)}";;')
    return SCRIPT.format(
        commands=" ".join(commands),
        values="\n".join(values),
        flags="\n".join(names),
    )
