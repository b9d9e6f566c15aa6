"""What people look at: the HTML report (page.py with page.html, page.css, page.js) and figures as files (plots.py)."""
