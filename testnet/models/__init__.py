"""The models that ship with rolemesh: `models.json` describes them, `train` makes them."""
