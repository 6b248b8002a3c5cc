"""What is answered: the pages, the JSON API, the list of devices."""
