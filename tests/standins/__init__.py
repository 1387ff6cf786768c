"""Stand-ins for servers, clusters and browsers, and shapes with closed forms."""
