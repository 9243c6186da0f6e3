"""Tools around gevent that know nothing of pytail's other folders."""
