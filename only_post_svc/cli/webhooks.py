"""The operator's commands over webhooks: list them, send one again, print the secrets that receivers verify with."""

import argparse
import base64

from only_post_svc import hints, webhooks
from only_post_svc.settings import WHSEC, Settings
from only_post_svc.webhooks import Webhook
from shared.cli.terminal import Failure, table
from shared.database import Database
from shared.lasting_secrets import lasting_secrets
from shared.pages import list_json
from shared.strict_json import encode

HEAD = ("TASK", "STATUS", "TRIES", "URL", "LAST ERROR")


async def list_webhooks(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    found = await database.query(lambda tx: webhooks.newest(tx, options.status, options.limit))
    if options.json:
        print(list_json(map(_json, found)))
    else:
        print(table(HEAD, [(one.task_id, one.status, one.attempts, one.url, one.last_error) for one in found]))


def _json(webhook: Webhook) -> str:
    return f'{{"task_id":{encode(webhook.task_id)},{webhook.json[1:]}'


async def retry_webhook(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    if not await database.write(lambda tx: webhooks.send_again(tx, options.task_id)):
        raise Failure(f"there is no task {options.task_id} that has ended and has a webhook")
    database.publish(hints.NOTIFY)
    print(encode({"task_id": options.task_id}) if options.json else "it is sent again")


async def show_secrets(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    """What receivers verify with, the one that signs first."""
    lasting = await lasting_secrets(database, settings)
    for secret in webhooks.signing_secrets(settings.webhook_secret, lasting):
        print(f"{WHSEC}{base64.b64encode(secret.value).decode()}")
