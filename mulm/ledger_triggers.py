"""The triggers of the ledger's database, which write its feed.

Part of `mulm.ledger_schema`. Invariant: what happens and what is told of it are one transaction, so
that whoever adds a fact cannot forget to tell.
"""

from __future__ import annotations

_NOW = "(julianday('now') - 2440587.5) * 86400.0"
_HAPPENS = "INSERT INTO feed (time_s, kind, subject, data) VALUES"

FEED_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS feed (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, time_s REAL NOT NULL, kind TEXT NOT NULL,
    subject TEXT NOT NULL, data TEXT NOT NULL);
CREATE TRIGGER IF NOT EXISTS run_begins AFTER INSERT ON runs BEGIN {_HAPPENS}
    (new.created_s, 'run', new.id, json_object('phase', new.phase, 'kind', new.kind)); END;
CREATE TRIGGER IF NOT EXISTS run_moves AFTER UPDATE OF phase ON runs
    WHEN old.phase != new.phase BEGIN {_HAPPENS}
    (new.updated_s, 'run', new.id, json_object('phase', new.phase, 'kind', new.kind)); END;
CREATE TRIGGER IF NOT EXISTS version_comes AFTER INSERT ON versions BEGIN {_HAPPENS}
    (new.created_s, 'version', new.name || '@' || new.number,
     json_object('kind', new.kind, 'is_removed', json('false'))); END;
CREATE TRIGGER IF NOT EXISTS version_goes AFTER INSERT ON removed BEGIN {_HAPPENS}
    (new.removed_s, 'version', new.name || '@' || new.number,
     json_object('kind', new.kind, 'is_removed', json('true'))); END;
CREATE TRIGGER IF NOT EXISTS alias_moves AFTER INSERT ON alias_history BEGIN {_HAPPENS}
    (new.set_s, 'alias', new.name || '@' || new.alias,
     json_object('kind', new.kind, 'version', new.number)); END;
CREATE TRIGGER IF NOT EXISTS deployment_changes AFTER INSERT ON deployments BEGIN {_HAPPENS}
    (new.set_s, 'deployment', new.name,
     json_object('revision', new.revision, 'reason', new.reason,
                 'is_removed', json(iif(new.spec IS NULL, 'true', 'false')))); END;
CREATE TRIGGER IF NOT EXISTS file_comes AFTER INSERT ON files BEGIN {_HAPPENS}
    (new.created_s, 'file', new.id, json_object('purpose', new.purpose)); END;
CREATE TRIGGER IF NOT EXISTS key_comes AFTER INSERT ON keys BEGIN {_HAPPENS}
    (new.created_s, 'key', new.id, json_object('is_revoked', json('false'))); END;
CREATE TRIGGER IF NOT EXISTS key_goes AFTER DELETE ON keys BEGIN {_HAPPENS}
    ({_NOW}, 'key', old.id, json_object('is_revoked', json('true'))); END;
CREATE TRIGGER IF NOT EXISTS feedback_comes AFTER INSERT ON feedback BEGIN {_HAPPENS}
    (new.created_s, 'feedback', new.id,
     json_object('model', new.model, 'verdict', new.verdict, 'is_removed', json('false'))); END;
CREATE TRIGGER IF NOT EXISTS feedback_changes AFTER UPDATE OF verdict ON feedback
    WHEN old.verdict != new.verdict BEGIN {_HAPPENS}
    (new.changed_s, 'feedback', new.id,
     json_object('model', new.model, 'verdict', new.verdict, 'is_removed', json('false'))); END;
CREATE TRIGGER IF NOT EXISTS feedback_goes AFTER DELETE ON feedback BEGIN {_HAPPENS}
    ({_NOW}, 'feedback', old.id,
     json_object('model', old.model, 'verdict', old.verdict, 'is_removed', json('true'))); END;
"""
