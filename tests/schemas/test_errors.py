import pytest

from schemas.errors import UsageError, UserError, error_line, named_error_line, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:1234@host/a?page=2&token=abc", "https://…@host/a?page=2&token=…"),
        ("https://host/a?X-Amz-Signature=f00&X-Amz-Date=9", "https://host/a?X-Amz-Signature=…&X-Amz-Date=9"),
        ("'s3://bucket/a?AWS_SECRET_ACCESS_KEY=x/y+z' is gone", "'s3://bucket/a?AWS_SECRET_ACCESS_KEY=…' is gone"),
        ("a text about tokens and keys", "a text about tokens and keys"),
    ],
)  # fmt: skip
def test_what_an_address_hides_is_cut(text, shown):
    assert without_secrets(text) == shown
    assert error_line(OSError(text)) == shown


def test_an_error_is_one_line_of_bounded_length_without_colours():
    assert error_line(ValueError("\n \x1b[31mred\x1b[0m\nsecond")) == "red"
    assert error_line("x" * 1000) == "x" * 300
    assert error_line(MemoryError()) == "MemoryError"
    assert named_error_line(KeyError("a")) == "KeyError: 'a'"
    assert named_error_line(MemoryError()) == "MemoryError: "


def test_wrong_usage_is_an_error_of_the_user_and_of_values():
    assert issubclass(UsageError, UserError)
    assert issubclass(UsageError, ValueError)
