"""The certificate of the live bundle is watched while it is used: audits of exits, alarms, and a rule that tightens."""
