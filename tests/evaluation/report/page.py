from html.parser import HTMLParser

URL_ATTRIBUTES = {"src", "href", "srcset", "data", "action", "poster", "xlink:href"}
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects tags, urls, images, ids and text; fails on tags that don't match and on doubled ids."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.urls, self.images, self.ids, self.text = [], [], [], set(), ""
        self._stack = []
        self.feed(str(html))
        assert self._stack == []

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag not in VOID:
            self._stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append((tag, values))
        self.urls += [value for name, value in attributes if name in URL_ATTRIBUTES]
        if "id" in values:
            assert values["id"] not in self.ids
            self.ids.add(values["id"])
        if tag == "img":
            self.images.append(values)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._stack.pop() == tag

    def handle_data(self, data):
        if self._stack and self._stack[-1] != "style":
            self.text += data + " "

    def words(self):
        return " ".join(self.text.split())

    def has(self, tag, **attributes):
        return sum(one == tag and attributes.items() <= values.items() for one, values in self.tags)
