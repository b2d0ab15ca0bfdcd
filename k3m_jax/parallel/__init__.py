"""Devices: the mesh, the table of logical-axis rules, the shardings made from them."""
