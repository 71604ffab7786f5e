"""The report of a run as one page: read from event logs, folded into bins, drawn as HTML and SVG without scripts."""
