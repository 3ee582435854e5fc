"""Ctrl-C while a command is loaded."""

import pytest

from fm4npp.cli import interrupts, main


def test_an_interrupt_before_the_command_is_one_line(capfd, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("fm4npp.cli.app", interrupted)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == interrupts.STATUS == 130
    assert capfd.readouterr() == ("", "error: interrupted; nothing was written under the final name\n")


def test_other_errors_pass():
    with pytest.raises(ValueError, match="bent"), interrupts.interrupts_in_one_line():
        raise ValueError("bent")
