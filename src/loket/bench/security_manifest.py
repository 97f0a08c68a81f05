"""The tools of AgentDojo's suites as capabilities: effects, critical arguments, records, and the words for them.

It is written as the maker of such a service would write it, from what each tool is documented to do. Nothing here
knows of a task or of a suite; a tool that occurs in two suites is declared once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loket.contracts import NO_DATA, ArgType, Capability, Data, Effect, Rows

ADDRESS = ArgType("address")
IBAN = ArgType("iban")
URL = ArgType("url")
DATE = ArgType("date")
DAY = ArgType("date", lenient=True)
NUMBER = ArgType("number")
NAME = ArgType("name")
TEXT = ArgType("text")
FLAG = ArgType("flag")
CHANNEL = ArgType("name", kind="channel")
USER = ArgType("name", kind="user")
PERMISSION = ArgType(
    "choice", words={"r": ("read", "view", "see"), "rw": ("write", "edit", "read and write", "change")}
)

EMAILS = Rows(
    "email",
    "result[]",
    id="id_",
    minted={
        "sender": "address",
        "recipients": "address",
        "cc": "address",
        "bcc": "address",
        "timestamp": "date",
    },
    text={"subject": "sender", "body": "sender"},
    keys=("subject", "sender"),
    maker="sender",
    mine={"status": "sent"},
    counterparties=("recipients", "cc", "bcc"),
    nouns=("email", "emails", "mail", "mails", "e-mail"),
)
CONTACTS = Rows(
    "contact",
    "result[]",
    minted={"email": "address"},
    text={"name": "email"},
    keys=("name",),
    stands_for="email",
    nouns=("contact", "contacts"),
)
EVENTS = Rows(
    "event",
    "result[]",
    id="id_",
    minted={"start_time": "date", "end_time": "date", "participants": "address"},
    text={"title": "participants", "description": "participants", "location": "participants"},
    keys=("title", "description"),
    maker="participants",
    nouns=("event", "events", "appointment", "appointments", "meeting", "meetings"),
)
FILES = Rows(
    "file",
    "result[]",
    id="id_",
    minted={"filename": "file", "size": "size", "last_modified": "date", "shared_with": "address", "owner": "address"},
    text={"content": "owner"},
    keys=("filename",),
    maker="owner",
    counterparties=("shared_with",),
    nouns=("file", "files", "document", "documents"),
)
PAYMENTS = Rows(
    "payment",
    "result[]",
    minted={"sender": "iban", "recipient": "iban", "amount": "number", "date": "date"},
    text={"subject": "sender"},
    keys=("subject", "sender", "recipient", "amount"),
    maker="sender",
    counterparties=("recipient",),
    nouns=("transaction", "transactions", "payment", "payments"),
)
ORDERS = Rows(
    "order",
    "result[]",
    id="id",
    minted={"recipient": "iban", "amount": "number", "date": "date"},
    text={"subject": "sender"},
    keys=("subject", "recipient", "amount"),
    maker="sender",
    counterparties=("recipient",),
    nouns=("standing order", "standing orders"),
)
CHANNELS = Rows(
    "channel",
    "result[]",
    id="value",
    minted={"value": "name:channel"},
    keys=("value",),
    insertable=False,
    nouns=("channel", "channels"),
)
USERS = Rows(
    "user",
    "result[]",
    id="value",
    minted={"value": "name:user"},
    keys=("value",),
    insertable=False,
    nouns=("user", "users", "member", "members", "people", "everyone"),
)
MEMBERS = Rows(
    "member",
    "result[]",
    minted={"value": "name:user", "channel": "name:channel"},
    insertable=False,
    bind={"channel": "channel"},
)
MESSAGES = Rows(
    "message",
    "result[]",
    minted={"sender": "name:user", "channel": "name:channel"},
    text={"body": "sender"},
    keys=("body",),
    maker="sender",
    place="channel",
    bind={"channel": "channel"},
    nouns=("message", "messages"),
)
NOTES = Rows(
    "message",
    "result[]",
    minted={"sender": "name:user"},
    text={"body": "sender"},
    keys=("body",),
    maker="sender",
    nouns=("message", "messages"),
)
PAGE = Rows("page", "result", minted={"url": "url"}, text={"value": ""}, keys=("url",), bind={"url": "url"})
TEXTS = Rows("text", "result", minted={"path": "path"}, text={"value": ""}, keys=("path",), bind={"file_path": "path"})


def _one(rows: Rows) -> Rows:
    """The same record where the answer holds one."""
    return Rows(**{**{name: getattr(rows, name) for name in Rows.__slots__}, "at": "result"})


def _object(kind: str) -> ArgType:
    return ArgType("object", kind=kind)


@dataclass(frozen=True, slots=True)
class Tool:
    """The declaration of one tool, without its schema, which the tool itself has."""

    effect: Effect
    critical: tuple[str, ...] = ()
    data: Data = NO_DATA


def _read(
    *rows: Rows,
    listing: Mapping[str, Any] | None = None,
    filters: Mapping[str, tuple[str, ...]] | None = None,
    **types: ArgType,
) -> Tool:
    return Tool(Effect.PRIVATE, (), Data(types=types, rows=rows, listing=listing, filters=filters or {}))


def _write(effect: Effect, wanted: tuple[tuple[str, ...], ...], *rows: Rows, **types: ArgType) -> Tool:
    return Tool(effect, tuple(types), Data(types=types, rows=rows, wanted=wanted))


_MAIL = ("send", "e-mail", "email", "emails", "mail", "reply", "forward", "write", "!message", "invite", "notify")
_EVENT = ("calendar", "event", "events", "appointment*", "meeting*", "remind*", "invit*", "reschedul*")
_MAKE = ("create", "add", "make", "set", "book", "schedule", "put", "plan", "remind*", "invite")
_FILE = ("file", "files", "document*", "doc", "docs", "drive", "list", "note*", "*.docx", "minutes", "report*")
_CANCEL = ("cancel*", "delete", "remove", "call off", "drop")
_MOVE = ("reschedul*", "move", "postpone", "push", "shift", "change")
_DELETE = ("delete", "remove", "erase", "trash", "get rid")
_BOOK = ("reserv*", "book", "booking")
_ATTACHMENT = ArgType(
    "struct", fields={"type": ArgType("choice"), "file_id": _object("file"), "event_details": ArgType("text")}
)

TOOLS: Mapping[str, Tool] = {
    # mail
    "send_email": _write(
        Effect.EGRESS,
        (_MAIL,),
        _one(EMAILS),
        recipients=ADDRESS,
        cc=ADDRESS,
        bcc=ADDRESS,
        attachments=_ATTACHMENT,
    ),
    "delete_email": _write(
        Effect.DESTROY, (_DELETE, ("email*", "e-mail*", "mail*", "message*", "inbox")), email_id=_object("email")
    ),
    "get_unread_emails": _read(EMAILS),
    "get_sent_emails": _read(EMAILS),
    "get_received_emails": _read(EMAILS),
    "get_draft_emails": _read(EMAILS),
    "search_emails": _read(
        EMAILS,
        listing={"query": ""},
        filters={"query": ("subject", "body"), "sender": ("sender",)},
        sender=ADDRESS,
    ),
    "search_contacts_by_name": _read(CONTACTS, listing={"query": ""}, filters={"query": ("name",)}),
    "search_contacts_by_email": _read(CONTACTS, filters={"query": ("email",)}),
    # calendar
    "get_current_day": _read(),
    "search_calendar_events": _read(
        EVENTS, listing={"query": ""}, filters={"query": ("title", "description")}, date=DATE
    ),
    "get_day_calendar_events": _read(EVENTS, day=DATE),
    "create_calendar_event": _write(Effect.EGRESS, (_EVENT, _MAKE), _one(EVENTS), participants=ADDRESS, start_time=DAY),
    "cancel_calendar_event": _write(Effect.DESTROY, (_EVENT, _CANCEL), event_id=_object("event")),
    "reschedule_calendar_event": _write(Effect.MODIFY, (_MOVE,), event_id=_object("event"), new_start_time=DATE),
    "add_calendar_event_participants": _write(
        Effect.EGRESS,
        (("add", "invite", "include"), ("participant*", "event", "meeting", "invite", "attendee*", "appointment")),
        event_id=_object("event"),
        participants=ADDRESS,
    ),
    # files
    "append_to_file": _write(
        Effect.MODIFY, (("add", "append", "write", "put", "insert", "update", "note"),), file_id=_object("file")
    ),
    "search_files_by_filename": _read(FILES, filters={"filename": ("filename",)}),
    "create_file": _write(Effect.MODIFY, (("create", "make", "write", "save", "new", "store"), _FILE), _one(FILES)),
    "delete_file": _write(Effect.DESTROY, (_DELETE,), file_id=_object("file")),
    "get_file_by_id": _read(_one(FILES), file_id=_object("file")),
    "list_files": _read(FILES, listing={}),
    "share_file": _write(
        Effect.EGRESS,
        (("share", "give", "send", "access"),),
        file_id=_object("file"),
        email=ADDRESS,
        permission=PERMISSION,
    ),
    "search_files": _read(FILES, filters={"query": ("content",)}),
    "read_file": _read(TEXTS, file_path=ArgType("path")),
    # travel
    "get_user_information": _read(),
    "get_all_hotels_in_city": _read(),
    "get_hotels_prices": _read(),
    "get_rating_reviews_for_hotels": _read(),
    "get_hotels_address": _read(),
    "get_all_restaurants_in_city": _read(),
    "get_cuisine_type_for_restaurants": _read(),
    "get_restaurants_address": _read(),
    "get_rating_reviews_for_restaurants": _read(),
    "get_dietary_restrictions_for_all_restaurants": _read(),
    "get_contact_information_for_restaurants": _read(),
    "get_price_for_restaurants": _read(),
    "check_restaurant_opening_hours": _read(),
    "get_all_car_rental_companies_in_city": _read(),
    "get_car_types_available": _read(),
    "get_rating_reviews_for_car_rental": _read(),
    "get_car_fuel_options": _read(),
    "get_car_rental_address": _read(),
    "get_car_price_per_day": _read(),
    "get_flight_information": _read(),
    "reserve_hotel": _write(Effect.MONEY, (_BOOK,), hotel=NAME, start_day=DATE, end_day=DATE),
    "reserve_restaurant": _write(Effect.MONEY, (_BOOK,), restaurant=NAME, start_time=DATE),
    "reserve_car_rental": _write(
        Effect.MONEY, ((*_BOOK, "rent", "rental"),), company=NAME, start_time=DATE, end_time=DATE
    ),
    # bank
    "get_iban": _read(),
    "get_balance": _read(),
    "get_most_recent_transactions": _read(PAYMENTS, listing={"n": 10_000}),
    "get_scheduled_transactions": _read(ORDERS, listing={}),
    "send_money": _write(
        Effect.MONEY,
        (("pay", "send", "transfer", "refund", "wire", "give", "settle", "reimburse"),),
        recipient=IBAN,
        amount=NUMBER,
    ),
    "schedule_transaction": _write(
        Effect.MONEY,
        (("schedul*", "recurring", "standing", "regular", "monthly", "weekly", "automatic*"),),
        recipient=IBAN,
        amount=NUMBER,
        recurring=FLAG,
    ),
    "update_scheduled_transaction": _write(
        Effect.MONEY,
        (
            ("updat*", "adjust*", "change", "modify", "increase", "raise", "lower"),
            ("rent", "payment*", "standing", "transaction*", "order*", "scheduled", "subscription*"),
        ),
        id=_object("order"),
        recipient=IBAN,
        amount=NUMBER,
    ),
    "get_user_info": _read(),
    "update_password": _write(Effect.ACCOUNT, (("password",),), password=TEXT),
    "update_user_info": _write(
        Effect.ACCOUNT,
        (
            ("updat*", "change", "adjust*", "correct", "set"),
            ("account", "address", "information", "info", "details", "name", "street", "city"),
        ),
        first_name=TEXT,
        last_name=TEXT,
        street=TEXT,
        city=TEXT,
    ),
    # chat
    "get_channels": _read(CHANNELS, listing={}),
    "read_channel_messages": _read(MESSAGES, channel=CHANNEL),
    "read_inbox": _read(NOTES, user=USER),
    "get_users_in_channel": _read(USERS, MEMBERS, channel=CHANNEL),
    "add_user_to_channel": _write(Effect.ACCOUNT, (("add", "invite", "join"),), user=USER, channel=CHANNEL),
    "send_direct_message": _write(
        Effect.EGRESS,
        (("send", "!message", "dm", "write", "tell", "inform", "notify", "direct message", "ask"),),
        recipient=USER,
    ),
    "send_channel_message": _write(
        Effect.EGRESS,
        (("post", "send", "write", "reply", "!message", "announce", "publish", "share"),),
        channel=CHANNEL,
    ),
    "invite_user_to_slack": _write(Effect.EGRESS, (("invite", "add", "onboard"),), user=USER, user_email=ADDRESS),
    "remove_user_from_slack": _write(Effect.DESTROY, (("remove", "delete", "kick", "ban", "deactivate"),), user=USER),
    "get_webpage": Tool(Effect.FETCH, ("url",), Data(types={"url": URL}, rows=(PAGE,))),
    "post_webpage": _write(Effect.EGRESS, (("post", "publish", "put", "upload"),), url=URL),
}


def capability(name: str, schema: Mapping[str, Any], summary: str) -> Capability:
    """The capability of a tool, from its declaration here and its own JSON Schema."""
    tool = TOOLS[name]
    return Capability(
        id=f"dojo.{name}",
        summary=summary,
        effect=tool.effect,
        arguments=schema,
        answer={"type": "object"},
        critical=tool.critical,
        data=tool.data,
    )
