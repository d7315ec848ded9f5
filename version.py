__version__ = "0.3.0"
# The SHA-256 of the code that is saved with models of this version. Whoever changes that code raises the version: a
# file is known by it (hub_card/provenance.py). tests/test_export.py says what to write here.
EXPORTED_CODE = "747bbfcd9b2b89b7bfa14358177b0c198382231356e5e3ed8deaf04ab240a850"
