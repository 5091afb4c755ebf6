"""Tables in Markdown."""


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table. A | within a cell is escaped.

    >>> print(markdown_table(["arm", "seeds"], [["4-2", "5"]]))
    | arm | seeds |
    |---|---|
    | 4-2 | 5 |
    """

    def line(cells: list[str]) -> str:
        escaped = [cell.replace("|", "\\|") for cell in cells]
        return f"| {' | '.join(escaped)} |"

    rule = "|" + "---|" * len(header)
    return "\n".join([line(header), rule, *map(line, rows)])
