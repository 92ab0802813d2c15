"""A small kit for pages that ask the network for nothing: the HTML frame, style, and scripts that pages share."""
