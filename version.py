__version__ = "0.9.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "94d7e6af86bb2c79de406de30338606e4658b8c11f750c85e96a26a944799e9a"
