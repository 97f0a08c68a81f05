"""The brain's tables in an agent's own SQLite file."""

BRAIN_MIGRATIONS: tuple[str, ...] = (
    """
    -- One row a memory. Rows are closed or emptied, never deleted. `created` to `closed` is when it was believed,
    -- `happened` is when it was so in the world (both in seconds since 1970 UTC). `source`, `run`, `ordinal`, `labels`
    -- and `created` come from the host. `corrects` is the kind of what a correction corrects.
    CREATE TABLE memory (
        id INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        corrects TEXT,
        text TEXT,
        subject TEXT,
        key TEXT,
        speaker TEXT,
        gist TEXT,
        note TEXT,
        subject_folded TEXT,
        key_folded TEXT,
        conversation TEXT NOT NULL,
        happened REAL NOT NULL,
        source TEXT NOT NULL,
        run TEXT NOT NULL,
        ordinal INTEGER NOT NULL,
        labels TEXT NOT NULL,
        created REAL NOT NULL,
        closed REAL,
        replaced_by INTEGER REFERENCES memory (id),
        forgotten REAL,
        digest BLOB NOT NULL
    );
    CREATE UNIQUE INDEX memory_live ON memory (subject_folded, key_folded)
        WHERE closed IS NULL AND subject_folded IS NOT NULL AND key_folded IS NOT NULL;
    CREATE INDEX memory_subject ON memory (subject_folded) WHERE subject_folded IS NOT NULL;
    CREATE INDEX memory_conversation ON memory (conversation);
    CREATE INDEX memory_replaced ON memory (replaced_by) WHERE replaced_by IS NOT NULL;

    -- What the index holds of a memory: its words, and where the two memories before it in the conversation are.
    -- `asks` is the share of its text that is questions; `dated` says that it names a day or a time; `past` that it was
    -- superseded; `told_by` and `about` are its speaker and subject, folded. What orders the candidates of a search
    -- stands first, because it is read faster there.
    CREATE TABLE document (
        id INTEGER PRIMARY KEY REFERENCES memory (id),
        asks REAL NOT NULL,
        dated INTEGER NOT NULL,
        past INTEGER NOT NULL DEFAULT 0,
        told_by TEXT,
        about TEXT,
        before1 INTEGER,
        before2 INTEGER,
        text TEXT NOT NULL,
        speaker TEXT NOT NULL,
        date TEXT NOT NULL,
        note TEXT NOT NULL,
        gist TEXT NOT NULL,
        topic TEXT NOT NULL
    );
    CREATE INDEX document_told_by ON document (told_by) WHERE told_by IS NOT NULL;
    CREATE INDEX document_about ON document (about) WHERE about IS NOT NULL;
    CREATE INDEX document_before1 ON document (before1) WHERE before1 IS NOT NULL;
    CREATE INDEX document_before2 ON document (before2) WHERE before2 IS NOT NULL;

    -- A context column is cut, so that one long memory does not weigh on the two after it.
    CREATE VIEW indexed AS
        SELECT d.id, d.text, d.speaker, d.date, d.note, d.gist, d.topic,
            coalesce(substr(b.text, 1, 1000) || ' ' || substr(b.note, 1, 400), '') AS context1,
            coalesce(substr(c.text, 1, 1000) || ' ' || substr(c.note, 1, 400), '') AS context2
        FROM document AS d LEFT JOIN document AS b ON b.id = d.before1 LEFT JOIN document AS c ON c.id = d.before2;

    CREATE VIRTUAL TABLE recall USING fts5(
        text, speaker, date, note, gist, topic, context1, context2,
        content = 'indexed', content_rowid = 'id', tokenize = 'porter unicode61 remove_diacritics 2'
    );
    INSERT INTO recall (recall, rank) VALUES ('secure-delete', 1);
    INSERT INTO recall (recall, rank) VALUES ('usermerge', 2);

    -- The answers of effects that were performed, so that a repeated one changes nothing.
    CREATE TABLE brain_applied (
        run TEXT NOT NULL,
        ordinal INTEGER NOT NULL,
        answer TEXT NOT NULL,
        PRIMARY KEY (run, ordinal)
    ) WITHOUT ROWID;
    """,
)
"""SQL scripts, oldest first; join them with those of other families that live in the same file."""
