"""Experience replay over many machines: Ray actors hold the shards, many write to them, many sample from them."""
