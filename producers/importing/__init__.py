"""Importers: real ledgers (beancount, CSV) turned into intents that are posted through the HTTP API.

beancount_reader   an outside process: beancount's own parser and sums, as JSON lines (the only place with beancount)
beancount_source   those lines -> drafts          csv_mapping, csv_source   a CSV file and its mapping -> drafts
units              which exponent each commodity has        minor           drafts -> intents in minor units
sender             intents -> POST /v1/intents/batch        checks          the ledger's balances against the file's
"""
