from dlq_tools.signatures import normalised, sign

TRACE = 'File "services/credit/handlers.py", line {line}, in release_credit\n  raise Permanent\n'


def group(error: str = "wrong", line: int = 10, queue: str = "credit.commands", function: str = "release_credit") -> str:
    trace = TRACE.format(line=line).replace("release_credit", function)
    return sign(queue=queue, type="credit.release-credit.v1", error_class="Permanent", error=error, trace=trace).group


def test_values_do_not_count() -> None:
    one = group("order ord_01jc5hw2 of buyer C-17 has 12.50 'Erika' and 0193a5f2-11aa-7bcd-8eef-001122334455")
    other = group("order ord_99zz1abc of buyer C-4 has 3 'Max' and 0193a5f2-22bb-7bcd-8eef-001122334455")
    assert one == other


def test_line_numbers_do_not_count_but_functions_do() -> None:
    assert group(line=10) == group(line=99)
    assert group(function="reserve_credit") != group()


def test_another_message_or_queue_is_another_group() -> None:
    assert len({group(), group("something else"), group(queue="credit.events")}) == 3


def test_the_text_stays_readable() -> None:
    assert normalised("type 'a.v1' was published 3 times") == "type '…' was published # times"
