"""What notebooks are given: tables as a browser reads them."""

from html.parser import HTMLParser


class Table(HTMLParser):
    """The cells of a table, and whether every tag is closed in its order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.cells, self.tags = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.append(tag)
        if tag in ("th", "td", "strong", "pre"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("th", "td", "strong", "pre"):
            self.cells[-1] += data
