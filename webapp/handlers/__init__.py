"""What is answered.

- `pages`: the HTML pages, from the `templates` folder
- `api`: the JSON API
- `openapi`: its description
- `devices`: where somebody is signed in; used by pages and API
- `notices`: the sentence that a page shows about the request before it
- `redirects`: where a page may send its visitor
- `static_files`: the stylesheet and the icon
"""
