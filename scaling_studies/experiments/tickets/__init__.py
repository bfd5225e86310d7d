"""Tempered residual tickets beside their rivals: each point is one shallow network, or one yardstick."""
