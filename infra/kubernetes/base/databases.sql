-- Run by PostgreSQL's image when its volume is empty. The servers make their own tables.
CREATE DATABASE mlflow;
CREATE DATABASE mlflow_auth;
CREATE DATABASE prefect;
CREATE DATABASE optuna;
