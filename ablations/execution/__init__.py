"""Jobs are carried out: one by one, in processes of this machine, and shown meanwhile."""
