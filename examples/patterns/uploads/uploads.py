"""A page that uploads pictures and shows the progress of each while a worker makes it a poster.

celeriac -A uploads worker -c 2            # in one terminal, in this folder
flask --app uploads run                    # in another; then open http://127.0.0.1:5000
"""

import os
import secrets
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, jsonify, request, send_file, send_from_directory, session
from PIL import Image, ImageFilter, ImageOps

from celeriac.flask import Celeriac, tasks_blueprint

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("UPLOADS_FOLDER", "uploads-out")).resolve()
STRIPS = 60
#: Anything larger is refused before it is read.
MOST_BYTES = 20 * 1024 * 1024

celeriac = Celeriac(broker_url=os.environ.get("BROKER", ""), result_backend=os.environ.get("RESULT_BACKEND", ""))


@celeriac.task(bind=True, acks_late=True)
def make_poster(self: Any, name: str) -> dict[str, Any]:
    """Blurs and posterizes a picture strip by strip. Run twice, it writes the same file."""
    with Image.open(FOLDER / name) as original:
        picture = ImageOps.exif_transpose(original).convert("RGB")
    height = -(-picture.height // STRIPS)
    for number in range(STRIPS):
        box = (0, number * height, picture.width, min(picture.height, (number + 1) * height))
        if box[3] > box[1]:
            strip = picture.crop(box).filter(ImageFilter.GaussianBlur(6)).filter(ImageFilter.MedianFilter(5))
            picture.paste(ImageOps.posterize(strip, 3), box)
        self.progress(number + 1, STRIPS, "painting")
    self.progress(STRIPS, STRIPS, "saving")
    picture.thumbnail((480, 480))
    poster = f"poster-{Path(name).stem}.png"
    picture.save(FOLDER / poster)
    return {"poster": poster, "size": picture.size}


def may(action: str, task_id: str) -> bool:
    """A browser sees the tasks that it has started, and may cancel them."""
    return task_id in session.get("tasks", ())


def create_app() -> Flask:
    """The application; `-A uploads` finds this too."""
    web = Flask(__name__)
    FOLDER.mkdir(parents=True, exist_ok=True)
    # A real application has one key for all of its processes, and keeps it.
    web.config.update(SECRET_KEY=os.environ.get("UPLOADS_KEY") or secrets.token_hex(), MAX_CONTENT_LENGTH=MOST_BYTES)
    celeriac.init_app(web)
    web.register_blueprint(tasks_blueprint(auth=may))

    @web.get("/")
    def page() -> Response:
        return send_file(HERE / "page.html")

    @web.post("/pictures")
    def upload() -> tuple[Response, int]:
        picture = request.files.get("picture")
        if picture is None:
            abort(400)
        # A name of our own: what the browser says is not to be trusted.
        name = secrets.token_hex(8)
        picture.save(FOLDER / name)
        result = make_poster.delay(name)
        session["tasks"] = [*session.get("tasks", ())[-39:], result.id]
        return jsonify(id=result.id), 202

    @web.get("/posters/<name>")
    def poster(name: str) -> Response:
        return send_from_directory(FOLDER, name)

    return web
