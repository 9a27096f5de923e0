"""The background work: change a picture, then tell its owner by mail."""

from __future__ import annotations

import os
import smtplib
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from flask import current_app
from PIL import Image, UnidentifiedImageError

from celeriac import Task, shared_task
from celeriac.utils.log import get_task_logger
from image_app import images

logger = get_task_logger(__name__)


@shared_task(
    bind=True,
    max_retries=3,
    autoretry_for=(OSError,),
    dont_autoretry_for=(UnidentifiedImageError,),
    retry_backoff=True,
    rate_limit="5/s",
    acks_late=True,
    reject_on_worker_lost=True,
)
def process_image(self: Task, source: str, operations: list[images.Operation]) -> dict[str, Any]:
    """Carries out `operations` on the picture at `source`, and says where the new one is."""
    image = Image.open(source).convert("RGB")
    for done, operation in enumerate(operations):
        progress = round(100 * done / len(operations))
        step = operation["name"]
        self.update_state(state="PROCESSING", meta={"progress": progress, "step": step, "pid": os.getpid()})
        image = images.apply(image, operation)

    # Written beside its place and moved there: who looks never sees half a picture, and a second run
    # of this task (its first worker was killed, say) replaces the file with the same one.
    target = Path(current_app.config["OUTPUT_DIR"], "images", f"{Path(source).stem}.jpg")
    unfinished = target.with_suffix(f".{os.getpid()}.tmp")
    image.save(unfinished, format="JPEG", quality=90)
    unfinished.replace(target)
    logger.info("wrote %s, %d x %d", target.name, image.width, image.height)
    return {
        "path": str(target),
        "width": image.width,
        "height": image.height,
        "bytes": target.stat().st_size,
        "pid": os.getpid(),
    }


@shared_task(
    bind=True,
    max_retries=3,
    autoretry_for=(OSError, smtplib.SMTPException),
    retry_backoff=True,
    acks_late=True,
)
def notify_completion(self: Task, picture: dict[str, Any], address: str) -> str:
    """Mails `address` that its picture is ready. A mail server that is busy or away is tried again."""
    mail = EmailMessage()
    mail["From"] = current_app.config["MAIL_FROM"]
    mail["To"] = address
    mail["Subject"] = f"Your picture {Path(picture['path']).name} is ready"
    mail["X-Attempt"] = str(self.request.retries + 1)
    mail.set_content(
        f"It is {picture['width']} x {picture['height']} pixels and {picture['bytes']} bytes.\n{picture['path']}\n"
    )
    host, port = current_app.config["SMTP_HOST"], current_app.config["SMTP_PORT"]
    with smtplib.SMTP(host, port, timeout=10) as server:
        server.send_message(mail)
    return f"mailed {address}"
