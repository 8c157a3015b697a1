"""The tests' own PostgreSQL server: it is real, and it can crash and come back."""

from __future__ import annotations

import psutil
import pytest
import sqlalchemy

from tests.postgresql import PostgreSQL, running


def test_databases_are_empty_and_apart(postgresql: PostgreSQL) -> None:
    one, two = (sqlalchemy.create_engine(postgresql.database()) for _ in range(2))
    with one.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE things (n int)"))
    assert sqlalchemy.inspect(one).get_table_names() == ["things"]
    assert sqlalchemy.inspect(two).get_table_names() == []
    one.dispose()
    two.dispose()


def test_a_killed_server_is_gone_and_comes_back_with_what_was_committed() -> None:
    with running() as server:
        engine = sqlalchemy.create_engine(server.database(), pool_pre_ping=True)
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("CREATE TABLE things AS SELECT 7 AS n"))
        pid, port = server.pid, server.port
        server.kill()
        assert not psutil.pid_exists(pid)
        with pytest.raises(sqlalchemy.exc.OperationalError):
            engine.connect()
        server.start()
        assert server.port == port and server.pid != pid
        with engine.connect() as connection:
            assert connection.execute(sqlalchemy.text("SELECT n FROM things")).scalar() == 7
        engine.dispose()
        pid = server.pid
    assert not psutil.pid_exists(pid)


def test_a_login_needs_the_password(postgresql: PostgreSQL) -> None:
    engine = sqlalchemy.create_engine(sqlalchemy.make_url(postgresql.url()).set(password="wrong"))
    with pytest.raises(sqlalchemy.exc.OperationalError, match="password authentication failed"):
        engine.connect()
