"""How a model is run: memory, inference, processes, Fabric."""
