"""The gate between a challenger and the store's pointer."""
