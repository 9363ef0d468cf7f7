// Installs what the suite drives besides Node. `npm test` runs it once before it runs vitest three times at once.
import setup from './setup.ts'

setup()
