"""embatch refresh every night, for Airflow 3: copy this file into the folder of DAGs.

The worker that runs it needs the checkout in /srv/embatch with its .venv. Airflow and embatch stay
apart: the task is a process, and its exit code is the task's. Keys come from the worker's environment.
"""

from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG(
    dag_id="embatch_refresh",
    schedule="0 3 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,  # one refresh makes up for all nights that were missed
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=12),
):
    # A task that is stopped gets SIGTERM, and embatch commits what is complete: give it the time
    # for that by `killed_task_cleanup_time = 900` in the section [core] of airflow.cfg.
    BashOperator(
        task_id="refresh",
        bash_command="exec /srv/embatch/.venv/bin/embatch refresh corpus.toml --json",
        cwd="/srv/embatch",
        retries=1,  # goes on from the last commit
        retry_delay=timedelta(minutes=15),
    )
    # On a Ray cluster instead, with the jobs API for ADDRESS:
    #   ray job submit --address ADDRESS --working-dir /srv/embatch -- \
    #       python -m jobs.refresh s3://BUCKET/corpus.toml
