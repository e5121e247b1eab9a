"""Which carrier takes which parcel, and what has become of it."""
