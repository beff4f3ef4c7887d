"""What makes fastmgr serve other packages; each module needs the extra of its name."""
