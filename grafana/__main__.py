"""`python -m grafana`: write the dashboard's JSON."""

import sys

from grafana.dashboard import main

sys.exit(main())
